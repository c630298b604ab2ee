import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.primitives import field, shamir

PRIMALITY_BASES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
MOST = 2**256 - 1


def is_probable_prime(n: int) -> bool:
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in PRIMALITY_BASES:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_modulus_is_the_first_prime_that_holds_32_bytes():
    assert is_probable_prime(field.PRIME)
    assert not any(is_probable_prime(n) for n in range(2**256, field.PRIME))


def test_published_example():
    # Shamir's scheme, the worked example of its encyclopedia article: f(x) = 1234 + 166 x + 94 x^2.
    shares = {1: 1494, 2: 1942, 3: 2578, 4: 3402, 5: 4414, 6: 5614}
    for chosen in itertools.combinations(shares, 3):
        assert int.from_bytes(shamir.combine_shares({x: shares[x] for x in chosen}), "big") == 1234


def evaluate_polynomial(values: dict[int, int], x: int) -> int:
    """Return the value at x of the polynomial of least degree through these points, by Lagrange's formula."""
    total = 0
    for at, value in values.items():
        top, bottom = 1, 1
        for other in values:
            if other != at:
                top, bottom = top * (x - other), bottom * (at - other)
        total += value * top * pow(bottom, -1, field.PRIME)
    return total % field.PRIME


def decode(shares: np.ndarray, secret: int) -> dict[int, int]:
    """Return {x: share} of one secret."""
    return {x: field.decode_element(row[secret].tobytes()) for x, row in enumerate(shares, start=1)}


@settings(derandomize=True, deadline=None)
@given(st.lists(st.binary(min_size=32, max_size=32), max_size=4), st.integers(1, 8), st.integers(0, 6), st.randoms())
def test_any_threshold_of_shares_restores_the_secret(secrets, threshold, extra, random):
    shares = shamir.split_secrets(secrets, threshold, threshold + extra)
    assert shares.shape == (threshold + extra, len(secrets), field.ELEMENT_BYTES)
    for at, secret in enumerate(secrets):
        found = decode(shares, at)
        chosen = random.sample(sorted(found), threshold)
        assert shamir.combine_shares({x: found[x] for x in chosen}) == secret


@pytest.mark.parametrize(
    ("threshold", "count"), [(1, 1), (1, 5), (2, 3), (5, 5), (8, 12), (43, 64), (67, 100), (80, 100)]
)
def test_all_shares_lie_on_the_polynomial_through_the_secret_and_the_random_ones(threshold, count, monkeypatch):
    """The scalar formula, at the ends of the range too: every drawn share is 0, the largest, or random."""
    secrets = [bytes(32), b"\xff" * 32, os.urandom(32)]
    drawn = [os.urandom, bytes, lambda size: b"\xff" * size]
    for draw in drawn:
        monkeypatch.setattr(shamir.os, "urandom", draw)
        shares = shamir.split_secrets(secrets, threshold, count)
        for at, secret in enumerate(secrets):
            found = decode(shares, at)
            known = {0: int.from_bytes(secret, "big")} | {x: found[x] for x in range(1, threshold)}
            assert set(known.values()) <= {0, MOST} or draw is os.urandom or at == 2
            for x in {threshold, (threshold + count) // 2, count}:
                assert found[x] == evaluate_polynomial(known, x)


@settings(derandomize=True, deadline=None)
@given(st.integers(-(2**90), 2**90), st.integers(0, 2**90), st.integers(-300, 300), st.sampled_from([22, 25, 33, 40]))
def test_digits_are_reduced_as_whole_numbers_are(factor, low, near, places):
    """Also close to multiples of the prime and of 2^256, where a carry runs through all places."""
    numbers = [factor * field.PRIME + near, factor * 2**256 + near, factor * low + near, near, 2**256 + near, low]
    digits = np.zeros((places, len(numbers)), np.int64)
    for at, number in enumerate(numbers):
        rest, sign = abs(number), 1 if number >= 0 else -1
        digits[:, at] = [sign * (rest >> 16 * place & 0xFFFF) for place in range(places)]
    digits[0] += 2**40  # digits need not be below the base
    encoded = shamir._encode_values(shamir._reduce_digits(digits))
    found = [field.decode_element(row.tobytes()) for row in encoded]
    assert found == [(number + 2**40) % field.PRIME for number in numbers]


def test_fewer_shares_fit_every_secret():
    """With one share less, each candidate secret is reached by exactly one value of the missing share."""
    secret, other = os.urandom(32), os.urandom(32)
    shares = decode(shamir.split_secrets([secret], 3, 3), 0)
    weights = field.compute_lagrange_weights([1, 2, 3])
    known = weights[0] * shares[1] + weights[1] * shares[2]
    missing = (int.from_bytes(other, "big") - known) * pow(weights[2], -1, field.PRIME) % field.PRIME
    assert shamir.combine_shares({1: shares[1], 2: shares[2], 3: missing}) == other


def test_random_shares_are_fresh_for_every_secret_and_every_dealing():
    secrets = [bytes(32)] * 3
    shares = [shamir.split_secrets(secrets, 4, 6) for _ in range(2)]
    found = {row[at].tobytes() for dealing in shares for row in dealing for at in range(3)}
    assert len(found) == 2 * 6 * 3


@pytest.mark.parametrize(("threshold", "count", "size"), [(0, 3, 32), (4, 3, 32), (2, 3, 31)])
def test_impossible_sharings_are_refused(threshold, count, size):
    with pytest.raises(ValueError, match="threshold"):
        shamir.split_secrets([bytes(size)], threshold, count)


def test_products_stay_exact():
    """The largest sum of products of limbs fits a double; beyond that nothing is dealt."""
    most = shamir._MAX_THRESHOLD
    assert most * (2**16 - 1) ** 2 < 2**53
    with pytest.raises(ValueError, match="not supported"):
        shamir._build_coefficients(most + 1, most + 1)


def test_field_elements_have_one_encoding():
    assert field.decode_element(field.encode_element(field.PRIME - 1)) == field.PRIME - 1
    for bad in (field.PRIME.to_bytes(33, "big"), bytes(32), bytes(34)):
        with pytest.raises(ValueError, match="field element"):
            field.decode_element(bad)
