"""Cryptographic and numeric building blocks, without I/O."""
