"""A tokenizer whose numbers depend on the process is refused before a run; an own one that is stable passes."""

import importlib
import sys

import pytest

from fedhealth.config.instantiate import instantiate
from fedhealth.errors import ModelError
from fedhealth.models.encoders.fresh_tokens import check_fresh_tokens
from fedhealth.models.encoders.text import TextEncoder

MODULE = """
import zlib
import numpy as np
from torch import nn

class Salted(nn.Module):
    width, pad = 2, 0

    def __init__(self, buckets):
        super().__init__()
        self.buckets = buckets
        self.table = nn.Embedding(buckets, 2)

    def tokenize(self, texts):
        return np.array([[self.code(text) % self.buckets] for text in texts], np.int64)

    def code(self, text):
        return hash(text)

class Stable(Salted):
    def code(self, text):
        return zlib.crc32(text.encode())
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """`build(name)`: the node and the encoder of a class in an own module."""
    (tmp_path / "own_tokens.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "own_tokens", raising=False)
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # of libraries that the other process imports

    def make(name):
        node = {"_target_": f"own_tokens.{name}", "buckets": 4096}
        return node, instantiate(node)

    return make


def test_a_tokenizer_that_uses_hash_is_refused(build):
    node, encoder = build("Salted")
    with pytest.raises(ModelError, match=r"own_tokens.Salted \(.*own_tokens.py\) returns other numbers") as said:
        check_fresh_tokens(node, encoder, 0)
    assert "hashlib" in said.value.advice


def test_a_stable_tokenizer_passes(build):
    node, encoder = build("Stable")
    check_fresh_tokens(node, encoder, 0)


def test_an_encoder_that_a_fresh_process_cannot_build_is_told_with_the_reason(build):
    node, encoder = build("Stable")
    with pytest.raises(ModelError, match=r"a fresh Python process cannot use own_tokens.Stable .*no_such"):
        check_fresh_tokens(node | {"_target_": "no_such.Thing"}, encoder, 0)


def test_ours_are_not_asked(monkeypatch):
    monkeypatch.setattr("fedhealth.models.encoders.fresh_tokens.subprocess", None)
    check_fresh_tokens({"_target_": "fedhealth.models.encoders.text.TextEncoder"}, TextEncoder(layers=0), 0)
