"""The command that writes a token store."""
