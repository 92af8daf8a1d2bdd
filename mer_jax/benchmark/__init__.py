"""Many models on the same features and folds, in one table; see command.py."""
