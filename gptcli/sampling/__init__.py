"""From logits to a token: penalties, filters and the draw."""
