"""Arithmetic modulo the prime 2^256 + 297, the smallest above every 32-byte secret."""

from collections.abc import Sequence

EXCESS = 297  # over 2^256
PRIME = 2**256 + EXCESS
ELEMENT_BYTES = 33


def encode_element(element: int) -> bytes:
    """Encode a field element as 33 big-endian bytes."""
    return element.to_bytes(ELEMENT_BYTES, "big")


def decode_element(data: bytes) -> int:
    """Decode 33 bytes; ValueError unless they are the canonical encoding of an element."""
    element = int.from_bytes(data, "big")
    if len(data) != ELEMENT_BYTES or element >= PRIME:
        raise ValueError("not a field element")
    return element


def compute_lagrange_weights(points: Sequence[int]) -> list[int]:
    """Return the weights that turn values at these distinct non-zero points into the value at zero."""
    weights = []
    for i, x in enumerate(points):
        top, bottom = 1, 1
        for other in (*points[:i], *points[i + 1 :]):
            top = top * other % PRIME
            bottom = bottom * (other - x) % PRIME
        weights.append(top * pow(bottom, -1, PRIME) % PRIME)
    return weights
