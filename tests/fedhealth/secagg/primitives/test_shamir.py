import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.primitives import field, shamir

PRIMALITY_BASES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


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
    assert [field.evaluate_polynomial([1234, 166, 94], x) for x in shares] == list(shares.values())


@settings(derandomize=True, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 8), st.integers(0, 6), st.randoms())
def test_any_threshold_of_shares_restores_the_secret(secret, threshold, extra, random):
    shares = dict(enumerate(shamir.split_secret(secret, threshold, threshold + extra), start=1))
    chosen = random.sample(sorted(shares), threshold)
    assert shamir.combine_shares({x: shares[x] for x in chosen}) == secret


def test_fewer_shares_fit_every_secret():
    """With one share less, each candidate secret is reached by exactly one value of the missing share."""
    secret, other = os.urandom(32), os.urandom(32)
    shares = dict(enumerate(shamir.split_secret(secret, 3, 3), start=1))
    weights = field.compute_lagrange_weights([1, 2, 3])
    known = weights[0] * shares[1] + weights[1] * shares[2]
    missing = (int.from_bytes(other, "big") - known) * pow(weights[2], -1, field.PRIME) % field.PRIME
    assert shamir.combine_shares({1: shares[1], 2: shares[2], 3: missing}) == other


def test_coefficients_are_fresh():
    secret = bytes(32)
    assert shamir.split_secret(secret, 2, 2) != shamir.split_secret(secret, 2, 2)


@pytest.mark.parametrize(("threshold", "count", "size"), [(0, 3, 32), (4, 3, 32), (2, 3, 31)])
def test_impossible_sharings_are_refused(threshold, count, size):
    with pytest.raises(ValueError, match="threshold"):
        shamir.split_secret(bytes(size), threshold, count)


def test_field_elements_have_one_encoding():
    assert field.decode_element(field.encode_element(field.PRIME - 1)) == field.PRIME - 1
    for bad in (field.PRIME.to_bytes(33, "big"), bytes(32), bytes(34)):
        with pytest.raises(ValueError, match="field element"):
            field.decode_element(bad)
