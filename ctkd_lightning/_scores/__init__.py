"""What scores mean, what a batch says of them, and the task's own loss."""
