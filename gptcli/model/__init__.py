"""The book's GPT, its config, and parameter, FLOP and memory counts."""
