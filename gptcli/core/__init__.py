"""Shared by all parts: errors, option fields, files, signals, memory, units."""
