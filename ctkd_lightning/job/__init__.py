"""One run: its command line, stages, files, tables and figures."""
