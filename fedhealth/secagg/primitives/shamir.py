"""Secret sharing (Shamir 1979): any `threshold` shares recover a 32-byte secret; fewer reveal nothing about it.

A polynomial of degree threshold - 1 is fixed by its values at 0 (the secret) and at 1 to threshold - 1. So these shares
are drawn at random, and the others are interpolated. The nodes are consecutive integers, hence the Lagrange
coefficients are integers too, and the same for all secrets of a dealing: one product of matrices deals them all.
"""

import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhealth.secagg.primitives import field

SECRET_BYTES = 32
_LIMB_BITS = 16
_LIMBS = 8 * SECRET_BYTES // _LIMB_BITS  # of a value below 2^256
# A product of limbs summed over `threshold` values must be exact in a double.
_MAX_THRESHOLD = 2 ** (53 - 2 * _LIMB_BITS)


def split_secrets(secrets: Sequence[bytes], threshold: int, count: int) -> NDArray[np.uint8]:
    """Share each secret with a random polynomial of its own.

    Args:
        secrets: 32 bytes each.
        threshold: number of shares that recover a secret.
        count: number of shares.

    Returns:
        Encoded field elements of shape (count, len(secrets), `field.ELEMENT_BYTES`); row i holds those at x = i + 1.

    """
    if not 1 <= threshold <= count or any(len(secret) != SECRET_BYTES for secret in secrets):
        raise ValueError("need 1 <= threshold <= count and secrets of 32 bytes")
    known = np.empty((threshold, len(secrets), SECRET_BYTES), np.uint8)  # little-endian, at x = 0..threshold - 1
    known[0] = np.frombuffer(b"".join(secrets), np.uint8).reshape(-1, SECRET_BYTES)[:, ::-1]
    # Uniform below 2^256 instead of the prime: the distance between the distributions is below 2^-247.
    known[1:] = np.frombuffer(os.urandom(known[1:].nbytes), np.uint8).reshape(known[1:].shape)
    shares = np.zeros((count, len(secrets), field.ELEMENT_BYTES), np.uint8)
    shares[: threshold - 1, :, 1:] = known[1:, :, ::-1]
    if secrets:
        shares[threshold - 1 :] = _interpolate_values(known, count)
    return shares


def combine_shares(shares: Mapping[int, int]) -> bytes:
    """Interpolate the secret from {x: share}; ValueError if the shares are inconsistent."""
    weights = field.compute_lagrange_weights(list(shares))
    return combine_weighted(weights, list(shares.values()))


def combine_weighted(weights: list[int], shares: list[int]) -> bytes:
    """`combine_shares` with the Lagrange weights computed once for many secrets."""
    secret = sum(w * s for w, s in zip(weights, shares, strict=True)) % field.PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("the shares do not belong together")
    return secret.to_bytes(SECRET_BYTES, "big")


def _interpolate_values(known: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Return the encoded values at x = threshold..count from the little-endian ones at x = 0..threshold - 1."""
    threshold, secrets, _ = known.shape
    coefficients = _build_coefficients(threshold, count)  # (limbs, count + 1 - threshold, threshold)
    limbs, rows, _ = coefficients.shape
    values = known.view("<u2").reshape(threshold, secrets, _LIMBS).transpose(0, 2, 1).astype(np.float64)
    products = coefficients.reshape(limbs * rows, threshold) @ values.reshape(threshold, _LIMBS * secrets)
    total = np.zeros((limbs + _LIMBS, rows, secrets), np.int64)
    for place, product in enumerate(products.reshape(limbs, rows, _LIMBS, secrets)):
        total[place : place + _LIMBS] += product.transpose(1, 0, 2).astype(np.int64)
    return _encode_values(_reduce_digits(total))


def _reduce_digits(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reduce numbers modulo the prime.

    Args:
        digits: to the base 2^16, the lowest first, of any sign, in magnitude below 2^60; shape (places, ...).

    Returns:
        17 digits between 0 and 2^16 - 1, of shape (17, ...).

    """
    digits = _carry_digits(digits)
    while len(digits) > _LIMBS + 1 or np.abs(digits[-1]).max(initial=0) > 1:
        digits = _carry_digits(_fold_digits(digits))
    if digits[-1].any():  # else all are between 0 and 2^256; at random they nearly always are
        digits = _carry_digits(_fold_digits(digits))  # takes off or adds the prime
        negative = digits[-1] < 0
        digits[0] += field.EXCESS * negative
        digits[-1] += negative
        digits = _carry_digits(digits)[: _LIMBS + 1]
    return digits


def _carry_digits(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the same numbers with one place more, which alone has a sign; the other digits are 0 to 2^16 - 1."""
    whole = np.zeros((len(digits) + 1, *digits.shape[1:]), np.int64)
    carry = whole[-1]
    for digit, target in zip(digits, whole, strict=False):
        carry += digit
        np.bitwise_and(carry, 2**_LIMB_BITS - 1, out=target)
        carry >>= _LIMB_BITS
    return whole


def _fold_digits(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return congruent numbers: 2^256 is minus the prime's excess, so what is above is taken off below."""
    low, high = digits[:_LIMBS], digits[_LIMBS:]
    folded = np.zeros((max(_LIMBS, len(high)), *digits.shape[1:]), np.int64)
    folded[:_LIMBS] = low
    folded[: len(high)] -= field.EXCESS * high
    return folded


def _encode_values(digits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the encoded field elements of 17 digits each: shape (17, ...) to (..., `field.ELEMENT_BYTES`)."""
    little = np.ascontiguousarray(np.moveaxis(digits.astype("<u2"), 0, -1)).view(np.uint8)
    return little[..., field.ELEMENT_BYTES - 1 :: -1]


@lru_cache(maxsize=8)
def _build_coefficients(threshold: int, count: int) -> NDArray[np.float64]:
    """Return the Lagrange coefficients from x = 0..threshold - 1 to x = threshold..count in limbs with their sign.

    The coefficient of node j at x is (-1)^(threshold - 1 - j) C(x, j) C(x - j - 1, threshold - 1 - j).
    """
    if threshold > _MAX_THRESHOLD:
        raise ValueError(f"a threshold above {_MAX_THRESHOLD} is not supported")
    last = threshold - 1
    exact = [
        [(-1) ** (last - j) * math.comb(x, j) * math.comb(x - j - 1, last - j) for j in range(threshold)]
        for x in range(threshold, count + 1)
    ]
    limbs = -(-max(abs(number) for row in exact for number in row).bit_length() // _LIMB_BITS)
    mask = 2**_LIMB_BITS - 1
    parts = [
        [[(abs(number) >> _LIMB_BITS * place & mask) * (1 if number > 0 else -1) for number in row] for row in exact]
        for place in range(limbs)
    ]
    return np.array(parts, np.float64)
