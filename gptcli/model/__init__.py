"""The book's network, its configuration, and what follows from a configuration by arithmetic."""
