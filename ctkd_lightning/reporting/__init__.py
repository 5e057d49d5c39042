"""A page over one run or many: what they are, their figures, their numbers."""
