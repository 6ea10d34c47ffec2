"""The fictional world behind the tier "tiny": its grammar, voices, recipes, skills and texts, the exact grader, its models."""
