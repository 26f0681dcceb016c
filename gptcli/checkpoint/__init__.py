"""Find, check, read and write model files."""
