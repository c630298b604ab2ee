"""Noise, sampling and the releases made of them."""
