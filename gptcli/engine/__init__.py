"""How a step of the model is computed for generation."""
