"""The noise is Gaussian, secret, fresh after a fork, and lands on a grid."""

import math
import os

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.chacha20 import ChaChaStream, generate_keystream
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource

N = 400_000


def normal_cdf(x):
    return torch.special.ndtr(torch.as_tensor(x, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("std", [1e-6, 0.37, 1.0, 1e4])
def test_every_grid_point_has_its_gaussian_weight(std, dtype):
    """Pearson's chi-square over the grid; six deviations, so a false alarm has probability 1e-9."""
    values = NoiseSource().add_(torch.zeros(N, dtype=dtype), std)
    grid = 2.0 ** (math.floor(math.log2(std)) - 4)
    steps = (values.double() / grid).round()
    assert torch.equal((steps * grid).to(dtype), values)
    reach = int(3 * std / grid)
    edges = (torch.arange(-reach, reach + 2).double() - 0.5) * grid / std
    expected = N * (normal_cdf(edges[1:]) - normal_cdf(edges[:-1]))
    seen = torch.histc(steps, bins=2 * reach + 1, min=-reach - 0.5, max=reach + 0.5)
    chi = float(((seen - expected) ** 2 / expected).sum())
    assert chi < len(expected) + 6 * math.sqrt(2 * len(expected))


def test_noise_is_added_to_the_total_and_independent_between_values():
    total = torch.arange(N, dtype=torch.float32)
    noise = NoiseSource().add_(total.clone(), 0.5) - total
    assert abs(float(noise.mean())) < 6 * 0.5 / math.sqrt(N)
    neighbours = float((noise[1:] * noise[:-1]).mean()) / 0.25
    halves = float((noise[: N // 2] * noise[N // 2 :]).mean()) / 0.25
    assert max(abs(neighbours), abs(halves)) < 6 / math.sqrt(N / 2)


def test_the_tail_is_extended_where_32_bits_end():
    source = NoiseSource()
    source._work.radius_bits = source._work.radius_bits.copy()
    source._work.radius_bits[:] = 1 << 20
    source._work.radius_bits[:100] = 0
    source._work.radius[:] = 0.5
    source._extend_tail()
    drawn = source._work.radius[:100].astype(np.float64)
    assert ((drawn > 0) & (drawn < 2.0**-32)).all()
    assert len(np.unique(drawn)) == 100
    assert (source._work.radius[100:] == 0.5).all()


def test_no_user_code_can_seed_it():
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        draws.append(NoiseSource().add_(torch.zeros(8), 1.0))
    assert not torch.equal(*draws)


def test_a_fork_draws_other_noise():
    source = NoiseSource()
    source.add_(torch.zeros(1), 1.0)  # the rest of the block would be shared
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, source.add_(torch.zeros(64), 1.0).numpy().tobytes())
        os._exit(0)
    theirs = os.read(read, 256)
    os.waitpid(child, 0)
    assert len(theirs) == 256
    assert source.add_(torch.zeros(64), 1.0).numpy().tobytes() != theirs


@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
def test_no_noise_is_no_protection(std):
    with pytest.raises(PrivacyError, match="protects nobody"):
        NoiseSource().add_(torch.zeros(2), std)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_sum_that_is_not_finite_is_refused(value):
    with pytest.raises(PrivacyError, match="not finite"):
        NoiseSource().add_(torch.tensor([0.0, value]), 1.0)


@pytest.mark.parametrize("first", [0, 7, 2**32 - 2, 2**33])
def test_chacha_equals_the_cryptography_package(first):
    key = os.urandom(32)
    words = tuple(int(w) for w in np.frombuffer(key, "<u4"))
    found = generate_keystream(words, first, 5, torch.device("cpu"))
    for number, block in enumerate(found, first):
        cipher = Cipher(algorithms.ChaCha20(key, number.to_bytes(8, "little") + bytes(8)), None)
        assert block.numpy().tobytes() == cipher.encryptor().update(bytes(64))


def test_chacha_normals_are_gaussian_and_never_repeat():
    stream = ChaChaStream(torch.device("cpu"))
    first, second = stream.normal(100_001), stream.normal(100_001)
    assert not torch.equal(first, second)
    values = torch.cat([first, second]).sort().values
    distance = (normal_cdf(values) - (torch.arange(len(values)) + 0.5) / len(values)).abs().max()
    assert float(distance) < 3.2 / math.sqrt(len(values))  # Kolmogorov: probability 3e-9


def test_values_that_were_generated_ahead_are_returned_once(monkeypatch):
    monkeypatch.setattr(ChaChaStream, "_is_gpu", True)
    monkeypatch.setattr("fedhealth.privacy.mechanisms.chacha20._AT_ONCE", 1000)
    stream, counts = ChaChaStream(torch.device("cpu")), [300, 900, 1, 2500, 40, 999] * 20
    found = [stream.normal(count) for count in counts]
    assert [len(each) for each in found] == counts
    values = torch.cat(found).sort().values
    assert len(values.unique()) == len(values)
    distance = (normal_cdf(values) - (torch.arange(len(values)) + 0.5) / len(values)).abs().max()
    assert float(distance) < 3.2 / math.sqrt(len(values))  # Kolmogorov: probability 3e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_noise_is_gaussian_on_its_grid():
    values = NoiseSource().add_(torch.zeros(N, device="cuda"), 1.0)
    assert torch.equal((values * 16).round() / 16, values)
    assert abs(float(values.var()) - 1) < 0.02
