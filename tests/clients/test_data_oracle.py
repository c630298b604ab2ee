"""Crafted models that turn a patient's data into an error: replies are the same whatever the data.

A loss that overflows an int64 exactly if some patient has a property told the lead that property, once for each
request. `FEDHEALTH_ORACLE_MODELS=1000` runs the full number of models.
"""

import os

import numpy as np
import pytest

from fedhealth.privacy.accounting.limits import count_failures
from tests.clients.private_site import PrivateSite, describe_reply

MODELS = int(os.environ.get("FEDHEALTH_ORACLE_MODELS", "24"))


@pytest.fixture(name="pair")
def pair_(tmp_path, site_writer, table_writer, tiny_overrides):
    """Return two hospitals that differ in one property: in the second, every label is positive for high CRP."""

    def build(*overrides):
        found = []
        for name, level in (("low", "40.0"), ("high", "4000.0")):
            rows = site_writer(tmp_path / name, "north")
            for row in rows:
                row["crp"] = level
            table_writer(tmp_path / name / "north" / "manifest.csv", rows)
            words = tiny_overrides(tmp_path / name)
            found.append(PrivateSite(tmp_path / f"run-{name}", words, *overrides))
        return found

    return build


def craft(state, number):
    """Return a model whose loss, activations or weights leave the range of an int64, a float32 or both."""
    generator = np.random.default_rng(number)
    scale = np.float32(10.0) ** np.float32(generator.uniform(2, 30))
    chosen = set(generator.choice(sorted(state), size=max(1, len(state) // 3), replace=False))
    crafted = {}
    for name, array in state.items():
        signs = generator.choice(np.array([-1, 1], np.float32), size=array.shape)
        crafted[name] = (array * scale * signs).astype(np.float32) if name in chosen else array
    if number % 8 == 7:
        crafted[min(crafted)] = np.full_like(crafted[min(crafted)], np.inf)
    return crafted


def ask_all(site):
    replies = []
    for number in range(MODELS):
        state = craft(site.state, number)
        replies.append(describe_reply(site.train(state=state, run=f"run{number}")))
    return replies


@pytest.mark.filterwarnings("ignore")
def test_replies_to_crafted_models_are_the_same_whatever_the_data(pair):
    low, high = pair("privacy.max_failures=1000000")
    replies = [ask_all(site) for site in (low, high)]
    assert replies[0] == replies[1]
    kinds = {reply for reply in replies[0] if isinstance(reply[0], int)}
    assert kinds <= {(1016, "SiteTaskError")}
    assert len(kinds) < MODELS  # most crafted models are answered


@pytest.mark.filterwarnings("ignore")
def test_failures_are_counted_and_limited_for_life(pair):
    low, high = pair("privacy.max_failures=3")
    broken = {name: np.full_like(array, np.inf) for name, array in low.state.items()}
    for site in (low, high):
        replies = [describe_reply(site.train(state=broken, run=f"run{number}")) for number in range(5)]
        assert replies == [(1016, "SiteTaskError")] * 3 + [(1006, "PrivacyError")] * 2
        assert count_failures(site.entries) == 3
        assert describe_reply(site.train(run="another")) == (1006, "PrivacyError")
        assert "max_failures" in site.entries[-1].reason
