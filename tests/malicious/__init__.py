"""Files that do harm where they are believed, and what becomes of them here and with the usual readers."""
