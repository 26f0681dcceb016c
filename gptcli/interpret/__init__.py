"""Look inside a model: activations, gradients, tensors, differences."""
