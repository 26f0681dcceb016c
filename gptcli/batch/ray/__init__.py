"""A batch on many machines through Ray."""
