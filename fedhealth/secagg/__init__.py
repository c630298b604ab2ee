"""Secure aggregation: the lead learns sums over sites and nothing else; see docs/secure-aggregation.md.

Pure protocol code on the standard library, numpy and cryptography. The network is somebody else's: every step takes
bytes and returns bytes.
"""
