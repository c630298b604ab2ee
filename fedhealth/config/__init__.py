"""Typed configuration: schema, composition with Hydra, validation, digest."""
