"""Generate text: prompt in, tokens and text out, one sequence or a batch."""
