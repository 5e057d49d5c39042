"""What the curriculum callback does within a foreign training."""
