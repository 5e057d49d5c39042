"""The student of a run as a file for elsewhere, in one of several formats."""
