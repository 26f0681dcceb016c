"""Train a tokenizer and a model."""
