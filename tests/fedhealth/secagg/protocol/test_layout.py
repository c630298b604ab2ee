from dataclasses import replace

import pytest

from fedhealth.secagg.protocol.errors import RefusedError
from fedhealth.secagg.protocol.layout import WEIGHT_ONE, Entry, Segment, model_segment, statistics_segment
from fedhealth.secagg.protocol.weights import MAX_EXAMPLES, announced_weight

MODEL = model_segment("m", "image", {"a": 3, "b": 2}, bound=1, bits=16, sites=5, normaliser=5)
COUNTS = statistics_segment("s", "image", (Entry("roc/positive", 4, 1e6, 1),), sites=5)


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
        {"entries": (Entry("a", 1, 1), Entry("a", 1, 1))},
        {"entries": (Entry("a", 0, 1),)},
        {"entries": (Entry("a", 1, float("nan")),)},
        {"entries": (Entry("a", 1, float("inf")),)},
        {"entries": (Entry("a", 1, 1, step=1),)},
        {"sites": 0},
        {"sites": 2**14},
        {"normaliser": 0},
        {"clamp_share": 1.0},
        {"clamp_share": float("nan")},
    ],
)
def test_bad_model_segments_are_refused(changes):
    with pytest.raises(RefusedError):
        replace(MODEL, **changes)


def test_a_cohort_beyond_the_headroom_names_the_vector():
    with pytest.raises(RefusedError, match="roc/positive cannot fit 64 bits summed over 5 sites"):
        Segment("s", "t", "statistics", 64, (Entry("roc/positive", 1, 2.0**61, 1),), 5)
    with pytest.raises(RefusedError, match="a cannot fit 16 bits"):
        replace(MODEL, sites=2**14)


def test_every_field_changes_the_digest():
    changes = {
        "name": "n",
        "tower": "u",
        "bits": 17,
        "sites": 6,
        "normaliser": 6,
        "clamp_share": 0.1,
        "entries": (Entry("a", 3, 1), Entry("b", 2, 1.5)),
    }
    digests = {replace(MODEL, **{field: value}).digest for field, value in changes.items()}
    assert len(digests | {MODEL.digest, COUNTS.digest}) == len(changes) + 2


def test_weights_are_coarse_and_deterministic():
    assert announced_weight(0) == 0
    assert announced_weight(1) == WEIGHT_ONE
    assert announced_weight(1000) == announced_weight(1100) == 1024 * WEIGHT_ONE
    assert announced_weight(700) == 47453132  # floor(2^9.5 * 2^16)
    assert announced_weight(700, "uniform") == WEIGHT_ONE
    assert announced_weight(700, "exact") == 700 * WEIGHT_ONE
    # Neighbouring powers of sqrt(2): never more than a fourth root of two away.
    assert all(2**-0.26 < announced_weight(n) / WEIGHT_ONE / n < 2**0.26 for n in range(1, 3000))
    assert 100 * announced_weight(MAX_EXAMPLES) < 2**63
    for bad in (-1, MAX_EXAMPLES + 1):
        with pytest.raises(RefusedError.__base__):
            announced_weight(bad)
