"""Read what a secure sum opened to: the mean update, the statistics, and the blank values that show the noise alone."""

from __future__ import annotations

import numpy as np

from fedhealth.privacy.auditing.blank_values import BlankValues, measure_blanks
from fedhealth.privacy.mechanisms.noised_counts import encode_counts
from fedhealth.secagg.primitives.layout import Layout
from fedhealth.secagg.primitives.noise_grid import is_blank, name_blanks
from fedhealth.secagg.protocol.layout_plan import (
    NOISED_STATISTICS_SEGMENT,
    STATISTICS_SEGMENT,
    STATISTICS_SEGMENTS,
)
from fedhealth.secagg.server.unmasking import OpenedSums
from fedhealth.types import State
from strategies.aggregation.base import Shapes


def read_update(opened: OpenedSums, expected: State, sample_rate: float | None) -> State:
    """Return the mean update, float32.

    Args:
        opened: sums.
        expected: arrays with the shapes of the update.
        sample_rate: where the sites share the noise, the rate with which a patient is in a batch: the sum is divided by
            the expected batch of its sites. None where the opened vectors are means already.

    """
    update: State = {}
    for segment, arrays in opened.vectors.items():
        if segment not in STATISTICS_SEGMENTS:
            divisor = None if sample_rate is None else max(1.0, sample_rate * opened.weights[segment])
            values = {name: array for name, array in arrays.items() if not is_blank(name)}
            update |= {n: _divide(array, divisor).reshape(expected[n].shape) for n, array in values.items()}
    return update


def _divide(values: np.ndarray, divisor: float | None) -> np.ndarray:
    """Return float64 values over a divisor as float32; without one the float32 values as they are."""
    if divisor is None:
        return np.asarray(values, np.float32)
    return np.divide(values, divisor, out=np.empty(values.shape, np.float32), casting="same_kind")


def read_statistics(opened: OpenedSums, shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the summed statistics, int64; tables of shared noise as all noised counts travel (`noised_counts`)."""
    sums = dict(opened.vectors.get(STATISTICS_SEGMENT, {}))
    noised = opened.vectors.get(NOISED_STATISTICS_SEGMENT, {})
    sums |= {name: encode_counts(counts) for name, counts in noised.items() if not is_blank(name)}
    return {name: np.asarray(sums[name], np.int64).reshape(shapes[name]) for name in sums}


def read_blanks(opened: OpenedSums, layout: Layout) -> dict[str, BlankValues]:
    """Return the blank values of every opened segment with shared noise."""
    found = {}
    for segment in layout:
        if segment.kind == "noised" and segment.name in opened.vectors:
            values = opened.vectors[segment.name][name_blanks(segment.name)]
            owners, step = len(opened.contributors[segment.name]), segment.entries[0].step
            found[segment.name] = measure_blanks(values, owners, segment.share_std, step)
    return found
