"""Sampling: penalties, constraints and filters of logits, and the draw of a token."""
