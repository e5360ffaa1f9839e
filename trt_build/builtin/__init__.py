"""Training of the built-in model: clips in, a bundle out (see scripts/train_builtin.py)."""
