"""Gradient engines: per-patient clipping, and the noisy optimizer step."""
