"""Inference engines: compiled CPU kernels and PyTorch."""
