"""Gaussian noise from a cryptographic generator that cannot be seeded.

The key comes from the operating system and never leaves the object; a forked process draws its own. On a CPU the
keystream is AES-256-CTR; on a GPU it is ChaCha20, computed there (`chacha20.py`).

Finite precision: a floating-point sampler reaches only some of the numbers near a value, and which ones it reaches
after adding the noise to a gradient can reveal that gradient (Mironov, CCS 2012; Holohan and Braghin, 2021). So the
noised sum is rounded to a coarse grid, between 1/32 and 1/16 of its standard deviation. Rounding after the addition is
post-processing: it costs no privacy and 0.03 % of variance. It makes every grid point reachable from every gradient,
with the probability that a true Gaussian gives it within about 2^-17. docs/privacy.md explains why.
"""

import math
import os
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.chacha20 import ChaChaStream

# Pairs generated at a time; the working arrays then fit in the second-level cache.
_PAIRS = 1 << 14
_GRID_BITS = 4
# Below this, 32 bits are too few for the radius: 64 more are drawn, so that the tail reaches 11 deviations.
_TAIL = 1 << 12

_Floats = NDArray[np.float32]
_Steps = NDArray[np.int64]


class NoiseSource:
    """Cryptographic Gaussian noise, for tensors on a CPU or a CUDA device."""

    def __init__(self) -> None:
        self._rekey()

    def _rekey(self) -> None:
        self._owner = os.getpid()
        key = algorithms.AES(os.urandom(32))
        self._cipher = Cipher(key, modes.CTR(os.urandom(16))).encryptor()
        self._ready: _Floats = np.empty(0, np.float32)
        self._work = _WorkBuffers()
        self._streams: dict[torch.device, ChaChaStream] = {}

    def add_(self, total: Tensor, std: float) -> Tensor:
        """Add N(0, std^2) in place and round to a grid of about std / 20.

        Args:
            total: any shape, contiguous, float32 or float64.
            std: standard deviation of the noise, above 0.

        Returns:
            The same tensor.

        Raises:
            PrivacyError: the standard deviation is not a positive number, or the total is not finite.

        """
        if not 0 < std < math.inf:
            raise PrivacyError(
                f"noise of standard deviation {std} protects nobody", "Set the noise multiplier above 0."
            )
        if self._owner != os.getpid():
            self._rekey()
        grid = 2.0 ** (math.floor(math.log2(std)) - _GRID_BITS)
        finite = self._add_on_gpu(total, std, grid) if total.is_cuda else self._add_on_cpu(total, std, grid)
        if not finite:
            raise PrivacyError(
                "the clipped sum is not finite", "Check the model and its learning rate; nothing was released."
            )
        return total

    def round_with_noise(self, total: NDArray[np.floating[Any]], std: float, step: float, bound: float) -> _Steps:
        """Return the nearest whole steps to clip(total, -bound, bound) + N(0, std^2), as [total.size] int64.

        Args:
            total: any shape; not modified.
            std: of the noise, above 0.
            step: of the grid; at most std / 16, so that the values of the float32 source are dense in it.
            bound: largest magnitude before the noise.

        Raises:
            PrivacyError: the numbers do not fit each other, or the total is not finite.

        """
        if not 0 < 16 * step <= std < math.inf:
            raise PrivacyError(f"noise of standard deviation {std} on a grid of {step} protects nobody", "Report this.")
        if self._owner != os.getpid():
            self._rekey()
        flat, steps = total.reshape(-1), np.empty(total.size, np.int64)
        buffer, per_step = np.empty(2 * _PAIRS), np.float32(std / step)
        finite, done = True, 0
        while done < flat.size:
            if not len(self._ready):
                self._ready = self._block()
            take = min(flat.size - done, len(self._ready))
            noise, chunk = self._ready[:take], buffer[:take]
            np.divide(flat[done : done + take], step, out=chunk)
            if not _is_finite(chunk):
                finite = False
                np.nan_to_num(chunk, copy=False)
            np.clip(chunk, -bound / step, bound / step, out=chunk)
            noise *= per_step
            chunk += noise
            np.rint(chunk, out=chunk)
            steps[done : done + take] = chunk
            self._ready = self._ready[take:]
            done += take
        if not finite:
            raise PrivacyError(
                "the clipped sum is not finite", "Check the model and its learning rate; nothing was released."
            )
        return steps

    def _add_on_gpu(self, total: Tensor, std: float, grid: float) -> bool:
        stream = self._streams.setdefault(total.device, ChaChaStream(total.device))
        values = total.double() + stream.normal(total.numel()).view(total.shape) * std
        total.copy_((values / grid).round() * grid)
        return bool(total.isfinite().all())

    def _add_on_cpu(self, total: Tensor, std: float, grid: float) -> bool:
        flat = total.detach().view(-1).numpy()
        in_grids, up, down = (flat.dtype.type(x) for x in (std / grid, 1 / grid, grid))
        done, finite = 0, True
        while done < len(flat):
            if not len(self._ready):
                self._ready = self._block()
            take = min(len(flat) - done, len(self._ready))
            chunk, noise = flat[done : done + take], self._ready[:take]
            chunk *= up
            noise *= in_grids
            chunk += noise
            np.rint(chunk, out=chunk)
            chunk *= down
            finite &= _is_finite(chunk)
            self._ready = self._ready[take:]
            done += take
        return finite

    def _block(self) -> _Floats:
        """Return 2 * _PAIRS standard normal values; the array is reused by the next call."""
        work = self._work
        radius, angle, wave, normal = work.radius, work.angle, work.wave, work.normal
        self._cipher.update_into(work.zeros, work.words)
        np.copyto(radius, work.radius_bits, casting="unsafe")
        radius *= np.float32(2.0**-32)
        self._extend_tail()
        np.log(radius, out=radius)
        radius *= np.float32(-2)
        np.sqrt(radius, out=radius)
        np.copyto(angle, work.angle_bits, casting="unsafe")
        angle *= np.float32(math.pi * 2.0**-31)
        np.multiply(np.cos(angle, out=wave), radius, out=normal[:_PAIRS])
        np.multiply(np.sin(angle, out=wave), radius, out=normal[_PAIRS:])
        return normal

    def _extend_tail(self) -> None:
        """Draw 64 more bits for the smallest uniforms, which give the largest values."""
        bits, radius = self._work.radius_bits, self._work.radius
        for i in np.flatnonzero(bits < _TAIL):
            more = int.from_bytes(self._cipher.update(bytes(8)), "little")
            radius[i] = (float(bits[i]) + (more + 0.5) * 2.0**-64) * 2.0**-32


def _is_finite(values: NDArray[np.floating[Any]]) -> bool:
    """Return whether all values are finite; a dot product would start threads for so few values."""
    with np.errstate(invalid="ignore", over="ignore"):
        return math.isfinite(values.sum())


class _WorkBuffers:
    """The working arrays of one block."""

    def __init__(self) -> None:
        size = _PAIRS * 8
        self.zeros = bytes(size)
        self.words = bytearray(size + 16)
        words = memoryview(self.words)
        self.radius_bits = np.frombuffer(words, np.uint32, _PAIRS, 0)
        self.angle_bits = np.frombuffer(words, np.int32, _PAIRS, 4 * _PAIRS)
        self.radius, self.angle, self.wave = (np.empty(_PAIRS, np.float32) for _ in range(3))
        self.normal = np.empty(2 * _PAIRS, np.float32)
