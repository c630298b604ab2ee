"""Secure aggregation: the lead learns only sums over sites; see docs/secure-aggregation.md.

Pure protocol code based on the standard library, numpy and cryptography, without a network: every step takes bytes and
returns bytes. Packages import downwards only: `client` and `server` use `protocol`, which uses `primitives`.
"""
