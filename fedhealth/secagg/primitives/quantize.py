"""Fixed point with stochastic rounding: real vectors to words that add up modulo 2^k, and sums back to means.

A site contributes round(x * w / normaliser * levels / bound + u), u uniform in [-1/2, 1/2) in steps of 2^-16: right on
average to 2^-17 of a unit, and never off by more than one. The weights of all sites sum to at most the normaliser, so
the sum of values within the bound, plus one unit of rounding per site, cannot wrap around.
"""

import os
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import WEIGHT_ONE, Segment, VectorSpec, Words
from fedhealth.secagg.primitives.masks import BLOCK_BYTES, Keystream

CHUNK = 2**15
NOISE_BITS = 16  # of the uniform that a value is rounded with
# Adding 1.5 * 2^68 to a double rounds it to a multiple of 2^16 and leaves the quotient in its low bits (two's
# complement).
ROUNDER = 1.5 * 2.0 ** (52 + NOISE_BITS)
Vectors = Mapping[str, NDArray[Any]]


def quantize(segment: Segment, vectors: Vectors, weight: int, out: Words | None = None) -> Words:
    """Quantize one site's vectors to words; the last words count the site as one contributor.

    Args:
        segment: names, lengths and bounds of the vectors.
        vectors: {entry name: real or integer array of any shape}; of a noised segment, whole steps with their noise.
        weight: the site's announced weight, in multiples of 2^-16; statistics do not use it.
        out: where the words are written; None makes a new array. Large new arrays cost more than the arithmetic.

    Raises:
        ProtocolViolationError: a vector is missing, not finite, of wrong length, or out of range.

    """
    flat = {entry.name: _flatten_vector(segment, entry, vectors) for entry in segment.entries}
    words: Words = np.empty(segment.words, dtype=segment.dtype) if out is None else out
    rounding = _Rounding()
    for entry, place in segment.slices():
        values = flat[entry.name]
        if segment.kind == "model":
            share = weight / segment.normaliser
            rounding.round(segment, entry, values, share * segment.levels / entry.bound, words[place])
        elif segment.kind == "noised":
            words[place] = _wrap_steps(segment, entry, values)
        else:
            words[place] = _to_steps(segment, entry, values).view(np.uint64)
    words[segment.length : segment.length + segment.count_words] = 1
    words[segment.length + segment.count_words :] = 0
    return words


def dequantize(segment: Segment, total: Words, weight: int) -> dict[str, NDArray[Any]]:
    """Dequantize an opened sum: the weighted mean of a model, or the sum of statistics.

    Args:
        segment: describes the vectors.
        total: the opened words; results of their size take their place in memory.
        weight: sum of the contributors' announced weights, positive for a model.

    Returns:
        {entry name: float32 for a model, int64 for counts (step 1), float64 for other statistics}.

    """
    shift = 8 * segment.dtype.itemsize - segment.bits
    signed = np.dtype(f"<i{segment.dtype.itemsize}")
    model, statistics = segment.kind == "model", segment.kind == "statistics"
    found: dict[str, NDArray[Any]] = {}
    for entry, place in segment.slices():
        counts = statistics and entry.step == 1
        kind = np.dtype(np.float32 if model else np.int64 if counts else np.float64)
        scale = segment.step(entry) * (segment.normaliser / weight if model else 1)
        source = total[place]
        out = source.view(kind) if kind.itemsize == source.itemsize else np.empty(entry.length, dtype=kind)
        for at in range(0, entry.length, CHUNK):
            # Shift to the top bit and arithmetically back: sign-extends k bits.
            values = (source[at : at + CHUNK] << shift).view(signed) >> shift
            out[at : at + CHUNK] = values if counts else values * scale
        found[entry.name] = out
    return found


def compute_error_bound(segment: Segment, entry: VectorSpec, contributors: int, weight: int) -> float:
    """Return the largest distance between an opened value and the exact mean or sum, before float32 rounding."""
    if segment.kind == "statistics":
        return contributors * entry.step / 2
    return contributors * segment.step(entry) * segment.normaliser / weight


def sum_weights(weights: tuple[int, ...]) -> float:
    """Return the sum of announced weights, in examples."""
    return sum(weights) / WEIGHT_ONE


def _flatten_vector(segment: Segment, entry: VectorSpec, vectors: Vectors) -> NDArray[Any]:
    values = vectors.get(entry.name)
    if values is None or values.size != entry.length:
        size = "nothing" if values is None else f"{values.size} values"
        raise ProtocolViolationError(f"segment {segment.name}: {entry.name} needs {entry.length} values, got {size}")
    return values.reshape(-1)


def _build_value_error(segment: Segment, entry: VectorSpec, problem: str) -> ProtocolViolationError:
    return ProtocolViolationError(
        f"segment {segment.name}: {entry.name} {problem}.",
        "If training diverges, lower training.optimizer.lr; otherwise raise the bound of this vector.",
    )


class _Rounding:
    """Stochastic rounding with uniforms from a keystream under a fresh random key; one set of small buffers."""

    def __init__(self) -> None:
        self._noise = Keystream(os.urandom(32))
        self._buffer = bytearray(2 * CHUNK + BLOCK_BYTES)
        self._sixteen_bits = np.frombuffer(self._buffer, dtype="<i2", count=CHUNK)
        self._uniform = np.empty(CHUNK)
        self._scaled = np.empty(CHUNK)

    def round(self, segment: Segment, entry: VectorSpec, values: NDArray[Any], factor: float, out: Words) -> None:
        """Write the nearest integers to values * factor + u into `out`, modulo its word size."""
        clamped = 0
        for at in range(0, entry.length, CHUNK):
            chunk = values[at : at + CHUNK]
            inside = np.maximum.reduce(chunk) <= entry.bound and np.minimum.reduce(chunk) >= -entry.bound
            if not inside:
                chunk, outliers = _clamp_outliers(segment, entry, chunk)
                clamped += outliers
            self._round_chunk(chunk, factor, out[at : at + CHUNK])
        if clamped > segment.clamp_share * entry.length:
            raise _build_value_error(segment, entry, f"has {clamped} of {entry.length} values beyond {entry.bound:g}")

    def _round_chunk(self, chunk: NDArray[Any], factor: float, out: Words) -> None:
        """Everything is in units of 2^-16, so that the noise needs no product: the sums round as they would in ones."""
        count = len(chunk)
        scaled, uniform = self._scaled[:count], self._uniform[:count]
        self._noise.fill(self._buffer, 2 * count)
        np.copyto(scaled, chunk)
        np.multiply(scaled, factor * 2.0**NOISE_BITS, out=scaled)
        np.copyto(uniform, self._sixteen_bits[:count])
        np.add(scaled, uniform, out=scaled)
        np.add(scaled, ROUNDER, out=scaled)
        np.copyto(out, scaled.view(np.int64), casting="unsafe")  # its low bits


def _clamp_outliers(segment: Segment, entry: VectorSpec, chunk: NDArray[Any]) -> tuple[NDArray[Any], int]:
    if not np.isfinite(chunk).all():
        raise _build_value_error(segment, entry, "is not finite")
    outliers = int(np.count_nonzero(np.abs(chunk) > entry.bound))
    return np.clip(chunk, -entry.bound, entry.bound), outliers


def _wrap_steps(segment: Segment, entry: VectorSpec, values: NDArray[Any]) -> Words:
    """Return whole steps modulo the word size; they hold noise, so nothing about them is checked or clamped."""
    if not np.issubdtype(values.dtype, np.signedinteger):
        raise _build_value_error(segment, entry, "is not in whole steps of the grid")
    return cast(Words, values.astype(segment.dtype))


def _to_steps(segment: Segment, entry: VectorSpec, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return a statistic in multiples of its step; integers stay exact."""
    if not np.isfinite(values).all():
        raise _build_value_error(segment, entry, "is not finite")
    if values.max() > entry.bound or values.min() < -entry.bound:
        raise _build_value_error(segment, entry, f"has values beyond {entry.bound:g}")
    if entry.step == 1 and np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64)
    return np.rint(values.astype(np.float64) / entry.step).astype(np.int64)
