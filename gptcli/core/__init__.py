"""Shared helpers: errors, option fields, files, signals, memory, units."""
