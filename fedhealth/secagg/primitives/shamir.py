"""Secret sharing (Shamir 1979): any `threshold` shares recover a 32-byte secret; fewer reveal nothing about it."""

from collections.abc import Mapping

from fedhealth.secagg.primitives import field

SECRET_BYTES = 32


def split_secret(secret: bytes, threshold: int, count: int) -> list[int]:
    """Return the shares at x = 1..count of a random polynomial of degree threshold - 1 through the secret."""
    if not 1 <= threshold <= count or len(secret) != SECRET_BYTES:
        raise ValueError("need 1 <= threshold <= count and a secret of 32 bytes")
    coefficients = [int.from_bytes(secret, "big"), *field.draw_elements(threshold - 1)]
    return [field.evaluate_polynomial(coefficients, x) for x in range(1, count + 1)]


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
