"""Training: recipes, truncated back-propagation, checkpoints."""
