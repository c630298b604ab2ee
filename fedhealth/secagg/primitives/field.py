"""Arithmetic modulo the prime 2^256 + 297, the smallest above every 32-byte secret."""

import os
from collections.abc import Sequence

PRIME = 2**256 + 297
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


def draw_elements(count: int) -> list[int]:
    """Draw elements from the operating system's generator; 48 bytes each keep the bias below 2^-127."""
    noise = os.urandom(48 * count)
    return [int.from_bytes(noise[i : i + 48], "big") % PRIME for i in range(0, len(noise), 48)]


def evaluate_polynomial(coefficients: Sequence[int], x: int) -> int:
    """Evaluate a polynomial, lowest coefficient first, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


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
