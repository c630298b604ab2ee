from dataclasses import replace

import pytest

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import (
    WEIGHT_ONE,
    Segment,
    VectorSpec,
    make_model_segment,
    make_statistics_segment,
)
from fedhealth.secagg.protocol.weights import MAX_EXAMPLES, compute_announced_weight

MODEL = make_model_segment("m", "image", {"a": 3, "b": 2}, bound=1, bits=16, sites=5, normaliser=5)
COUNTS = make_statistics_segment("s", "image", (VectorSpec("roc/positive", 4, 1e6, 1),), sites=5)


def test_sizes():
    assert (MODEL.length, MODEL.count_words, MODEL.words, MODEL.wire_bytes) == (5, 4, 9, 18)
    assert (COUNTS.words, COUNTS.wire_bytes) == (5, 40)
    assert replace(MODEL, bits=20).wire_bytes == 32 * 20 // 8
    assert [(e.name, s.start, s.stop) for e, s in MODEL.slices()] == [("a", 0, 3), ("b", 3, 5)]


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": 15},
        {"bits": 33},
        {"bits": 64},
        {"name": ""},
        {"name": "a b"},
        {"tower": "\n"},
        {"entries": ()},
        {"entries": (VectorSpec("a", 1, 1), VectorSpec("a", 1, 1))},
        {"entries": (VectorSpec("a", 0, 1),)},
        {"entries": (VectorSpec("a", 1, float("nan")),)},
        {"entries": (VectorSpec("a", 1, float("inf")),)},
        {"entries": (VectorSpec("a", 1, 1, step=1),)},
        {"sites": 0},
        {"sites": 2**14},
        {"normaliser": 0},
        {"clamp_share": 1.0},
        {"clamp_share": float("nan")},
    ],
)
def test_bad_model_segments_are_refused(changes):
    with pytest.raises(ProtocolViolationError):
        replace(MODEL, **changes)


def test_a_cohort_beyond_the_headroom_names_the_vector():
    with pytest.raises(ProtocolViolationError, match="roc/positive cannot fit 64 bits summed over 5 sites"):
        Segment("s", "t", "statistics", 64, (VectorSpec("roc/positive", 1, 2.0**61, 1),), 5)
    with pytest.raises(ProtocolViolationError, match="a cannot fit 16 bits"):
        replace(MODEL, sites=2**14)


def test_every_field_changes_the_digest():
    changes = {
        "name": "n",
        "tower": "u",
        "bits": 17,
        "sites": 6,
        "normaliser": 6,
        "clamp_share": 0.1,
        "entries": (VectorSpec("a", 3, 1), VectorSpec("b", 2, 1.5)),
    }
    digests = {replace(MODEL, **{field: value}).digest for field, value in changes.items()}
    assert len(digests | {MODEL.digest, COUNTS.digest}) == len(changes) + 2


def test_weights_are_coarse_and_deterministic():
    assert compute_announced_weight(0) == 0
    assert compute_announced_weight(1) == WEIGHT_ONE
    assert compute_announced_weight(1000) == compute_announced_weight(1100) == 1024 * WEIGHT_ONE
    assert compute_announced_weight(700) == 47453132  # floor(2^9.5 * 2^16)
    assert compute_announced_weight(700, "uniform") == WEIGHT_ONE
    assert compute_announced_weight(700, "exact") == 700 * WEIGHT_ONE
    # Neighbouring powers of sqrt(2): never more than a fourth root of two away.
    assert all(2**-0.26 < compute_announced_weight(n) / WEIGHT_ONE / n < 2**0.26 for n in range(1, 3000))
    assert 100 * compute_announced_weight(MAX_EXAMPLES) < 2**63
    for bad in (-1, MAX_EXAMPLES + 1):
        with pytest.raises(ProtocolViolationError.__base__):
            compute_announced_weight(bad)
