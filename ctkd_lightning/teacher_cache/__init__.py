"""A teacher's outputs, kept by (sample, view), and a teacher that reads them."""
