import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import WEIGHT_ONE, Segment, VectorSpec, make_model_segment
from fedhealth.secagg.primitives.masks import BLOCK_BYTES, Keystream
from fedhealth.secagg.primitives.quantize import CHUNK, compute_error_bound, dequantize, quantize


def model(bits: int = 32, sites: int = 3, weight: int = 3, clamp: float = 0.0, length: int = 6) -> Segment:
    layers = {"conv.weight": length, "conv.bias": 2}
    return make_model_segment(
        "m", "t", layers, bound=0.5, bits=bits, sites=sites, normaliser=weight * WEIGHT_ONE, clamp_share=clamp
    )


def statistics(sites: int = 4) -> Segment:
    return Segment(
        "s", "t", "statistics", 64, (VectorSpec("hits", 2, 1e15, 1), VectorSpec("loss", 2, 100, 2**-20)), sites
    )


@settings(derandomize=True, deadline=None)
@given(st.integers(16, 32), st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 2**32))
def test_weighted_mean_within_the_bound(bits, weights, seed):
    about, rng = model(bits, len(weights), max(sum(weights), 1)), np.random.default_rng(seed)
    vectors = [{e.name: rng.uniform(-0.5, 0.5, e.length) for e in about.entries} for _ in weights]
    vectors[0]["conv.bias"][:] = 0.5, -0.5  # the extremes must not wrap around
    total = np.zeros(about.words, about.dtype)
    for vector, weight in zip(vectors, weights, strict=True):
        total += quantize(about, vector, weight * WEIGHT_ONE)
    whole = sum(weights)
    if not whole:
        assert not total[: about.length].any()
        return
    opened = dequantize(about, total, whole * WEIGHT_ONE)
    for entry in about.entries:
        mean = sum(w * v[entry.name] for w, v in zip(weights, vectors, strict=True)) / whole
        bound = compute_error_bound(about, entry, len(weights), whole * WEIGHT_ONE) + 2**-24
        assert np.abs(opened[entry.name] - mean).max() <= bound


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_extremes_of_every_site_do_not_wrap(bits):
    about = model(bits, sites=100, weight=100, length=CHUNK + 5)
    for sign in (1, -1):
        vector = {e.name: np.full(e.length, sign * 0.5, np.float32) for e in about.entries}
        total = sum(quantize(about, vector, WEIGHT_ONE) for _ in range(100))
        opened = dequantize(about, total.astype(about.dtype), 100 * WEIGHT_ONE)["conv.weight"]
        assert np.abs(opened - sign * 0.5).max() <= compute_error_bound(about, about.entries[0], 100, 100 * WEIGHT_ONE)


@pytest.mark.parametrize(("bits", "in_place"), [(16, False), (20, True), (32, True)])
def test_a_mean_takes_the_place_of_words_of_its_size(bits, in_place):
    about = model(bits, sites=1, weight=1, length=10)
    words = quantize(about, {"conv.weight": np.linspace(-0.4, 0.4, 10), "conv.bias": np.zeros(2)}, WEIGHT_ONE)
    opened = dequantize(about, words.copy(), WEIGHT_ONE)
    assert np.abs(opened["conv.weight"] - np.linspace(-0.4, 0.4, 10)).max() < 1e-3
    total = words.copy()
    assert np.shares_memory(dequantize(about, total, WEIGHT_ONE)["conv.weight"], total) == in_place


def test_rounding_is_right_on_average():
    about = model(16, sites=1, weight=1, length=400_000)
    opened = dequantize(
        about,
        quantize(about, {"conv.weight": np.full(400_000, 0.1234567), "conv.bias": np.zeros(2)}, WEIGHT_ONE),
        WEIGHT_ONE,
    )
    unit = about.step(about.entries[0])
    # One unit wide at most, so the mean's standard deviation is below 0.5 / sqrt(400 000).
    assert abs(opened["conv.weight"].astype(float).mean() - 0.1234567) / unit < 6 * 0.5 / np.sqrt(400_000)
    assert not opened["conv.bias"].any()


@pytest.mark.parametrize("bits", [16, 20, 32])
@pytest.mark.parametrize("length", [1, CHUNK - 1, 2 * CHUNK + 5])
def test_words_in_pieces_are_the_nearest_integers_to_value_plus_noise(bits, length, monkeypatch):
    monkeypatch.setattr("os.urandom", lambda size: b"k" * size)
    about = make_model_segment("m", "t", {"w": length}, bound=0.5, bits=bits, sites=3, normaliser=3 * WEIGHT_ONE)
    values = np.random.default_rng(length).uniform(-0.5, 0.5, length).astype(np.float32)
    words = quantize(about, {"w": values}, 2 * WEIGHT_ONE)[:length]
    stream, buffer = Keystream(b"k" * 32), bytearray(2 * length + BLOCK_BYTES)
    for at in range(0, length, CHUNK):
        part = bytearray(2 * CHUNK + BLOCK_BYTES)
        size = 2 * min(CHUNK, length - at)
        stream.fill(part, size)
        buffer[2 * at : 2 * at + size] = part[:size]
    noise = np.frombuffer(buffer, "<i2", length) * 2.0**-16
    exact = np.rint(values.astype(np.float64) * (2 / 3 * about.levels / 0.5) + noise).astype(np.int64)
    np.testing.assert_array_equal(words, exact.astype(about.dtype))


def test_rounding_ignores_configured_seeds():
    about, values = model(16, length=5000), {"conv.weight": np.full(5000, 0.0101), "conv.bias": np.zeros(2)}
    words = []
    for _ in range(2):
        np.random.seed(7)
        words.append(quantize(about, values, WEIGHT_ONE))
    assert not np.array_equal(*words)


def test_the_words_end_with_the_count():
    for about in (model(16), model(20), model(32)):
        words = quantize(about, {"conv.weight": np.zeros((2, 3)), "conv.bias": np.zeros(2)}, WEIGHT_ONE)
        assert list(words[about.length :][: about.count_words]) == [1] * about.count_words
        assert about.count_words * about.bits >= 64


def test_statistics_are_exact():
    about, total = statistics(), np.zeros(4 + 1, "<u8")
    for sign in (1, 1, -1):
        values = {"hits": np.array([sign * (10**15 - 1), 7]), "loss": np.array([sign * 1.5, 2**-20])}
        total += quantize(about, values, 0)
    opened = dequantize(about, total, 0)
    assert opened["hits"].dtype == np.int64
    assert list(opened["hits"]) == [10**15 - 1, 21]
    assert list(opened["loss"]) == [1.5, 3 * 2**-20]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.array([0, 0, 0.6, 0, 0, 0]), "conv.weight has 1 of 6 values beyond 0.5"),
        (np.array([0, 0, np.nan, 0, 0, 0]), "conv.weight is not finite"),
        (np.array([0, 0, -np.inf, 0, 0, 0]), "conv.weight is not finite"),
        (np.zeros(5), "conv.weight needs 6 values, got 5 values"),
        (None, "conv.weight needs 6 values, got nothing"),
    ],
)
def test_values_that_do_not_fit_name_the_layer(values, problem):
    vectors = {"conv.bias": np.zeros(2)} | ({} if values is None else {"conv.weight": values})
    with pytest.raises(ProtocolViolationError, match=problem):
        quantize(model(), vectors, WEIGHT_ONE)


def test_a_few_outliers_are_clamped_where_allowed():
    about = model(clamp=0.2, weight=1, sites=1)
    values = {"conv.weight": np.array([9, 0, 0, 0, 0, 0.25]), "conv.bias": np.zeros(2)}
    opened = dequantize(about, quantize(about, values, WEIGHT_ONE), WEIGHT_ONE)
    assert np.allclose(opened["conv.weight"], [0.5, 0, 0, 0, 0, 0.25])
    values["conv.weight"][1] = -9
    with pytest.raises(ProtocolViolationError, match="2 of 6 values"):
        quantize(about, values, WEIGHT_ONE)


@pytest.mark.parametrize("value", [1e16, -1e16, np.nan])
def test_statistics_that_do_not_fit_are_named(value):
    with pytest.raises(ProtocolViolationError, match="hits"):
        quantize(statistics(), {"hits": np.array([0, value]), "loss": np.zeros(2)}, 0)
