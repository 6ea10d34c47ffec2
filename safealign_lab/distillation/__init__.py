"""The distillation wing: a student head on a frozen backbone. Its first loss is here; the others are coming."""
