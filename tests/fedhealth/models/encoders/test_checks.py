"""What an own encoder returns: tokens and features that do not fit are told with its class and file."""

import numpy as np
import pytest
import torch
from torch import nn

from fedhealth.errors import ModelError
from fedhealth.models.encoders.checks import check_features, is_mixing_rows, tokenize_texts
from fedhealth.models.encoders.text import TextEncoder
from fedhealth.utils.own_code import OwnCodeError


class Mine(nn.Module):
    width, pad = 4, 0

    def __init__(self, tokens=None):
        super().__init__()
        self.tokens = tokens

    def tokenize(self, texts):
        return self.tokens


class WithoutTexts(nn.Module):
    def tokenize(self):
        return np.zeros((1, 1), np.int64)


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        ([[1], [2]], "a list"),
        (None, "None"),
        (torch.zeros(2, 3), "a Tensor of torch.float32, shape [2, 3]"),
        (np.zeros(2, np.int64), "an array of int64, shape [2]"),
        (np.zeros((1, 3), np.int64), "an array of int64, shape [1, 3]"),
        (np.zeros((2, 3), np.int32), "an array of int32, shape [2, 3]"),
    ],
)
def test_tokens_that_do_not_fit_are_told(tokens, found):
    with pytest.raises(ModelError) as caught:
        tokenize_texts(Mine(tokens), ["a", "b"])
    assert f"Mine ({__file__}): `tokenize` returned {found} for 2 texts." in caught.value.problem
    assert "numpy array [len(texts), length], int64 or float32" in caught.value.advice


def test_tokens_of_both_types_are_taken():
    for dtype in (np.int64, np.float32):
        assert tokenize_texts(Mine(np.ones((2, 3), dtype)), ["a", "b"]).dtype == dtype
    assert tokenize_texts(TextEncoder(layers=0), ["a b", "c"]).shape == (2, 2)


def test_a_tokenizer_with_other_parameters_is_told():
    with pytest.raises(OwnCodeError, match=r"WithoutTexts.tokenize \(.*\) cannot be called"):
        tokenize_texts(WithoutTexts(), ["a"])


def test_a_width_that_is_not_the_forwards_is_told_with_both():
    check_features("model.tabular", Mine(), torch.zeros(3, 4), 3)
    with pytest.raises(ModelError, match=r"Mine \(.*\): `forward` returned .*: 5 features, but its `width` is 4."):
        check_features("model.tabular", Mine(), torch.zeros(3, 5), 3)


@pytest.mark.parametrize("features", [None, torch.zeros(4), torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.int64)])
def test_what_are_no_features_is_told(features):
    with pytest.raises(ModelError, match=r"`forward` returned .* for 3 rows"):
        check_features("model.tabular", Mine(), features, 3)


class Centred(nn.Module):
    def forward(self, values):
        return values - values.mean(dim=0)


def test_an_encoder_that_mixes_rows_is_found():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert is_mixing_rows(Centred(), rows)
    assert not is_mixing_rows(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)), rows)
