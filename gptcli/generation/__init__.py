"""Write text: prompt in, tokens and text out, one or many at a time."""
