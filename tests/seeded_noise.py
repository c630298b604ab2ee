"""Noise, sampling and rounding that give the same numbers in every run of a test.

The product draws them from the operating system and cannot be seeded. A bound on such numbers that holds with a
probability of .999 fails once a week in a suite of thousands of tests; here they are drawn from the name of the test.
"""

import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from fedhealth.privacy.mechanisms import chacha20, gaussian_noise, poisson_sampler
from fedhealth.secagg.primitives import quantize
from fedhealth.training import dpsgd_trainer

_GENUINE = os.urandom
_DRAW_BYTES = (gaussian_noise, chacha20, poisson_sampler, quantize)


@contextmanager
def seed_noise(name: str) -> Iterator[None]:
    """Draw what the product takes from `os.urandom` for noise from a hash of `name` instead."""
    owner, numbers = os.getpid(), itertools.count()

    def draw(size: int) -> bytes:
        if os.urandom is not _GENUINE:  # a test that breaks the source
            return os.urandom(size)
        process = os.getpid() - owner  # a forked process draws numbers of its own
        return hashlib.shake_256(f"{name}:{process}:{next(numbers)}".encode()).digest(size)

    source = SimpleNamespace(urandom=draw, getpid=os.getpid)
    bits = SimpleNamespace(randbits=lambda count: int.from_bytes(draw(32)) % 2**count)
    with pytest.MonkeyPatch.context() as patch:
        for module in _DRAW_BYTES:
            patch.setattr(module, "os", source)
        patch.setattr(dpsgd_trainer, "secrets", bits)
        yield
