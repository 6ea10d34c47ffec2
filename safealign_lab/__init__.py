"""SafeAlign Lab: how language models are made safe, learned by building it.

Rooms are imported when they are first used, so that `import safealign_lab` itself is quick.
"""

__version__ = "0.1.0"
