"""Check what an encoder, perhaps a user's own, returns: tokens when texts are read, features before a run starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedhealth.errors import ModelError
from fedhealth.utils.guarded_part import describe_value
from fedhealth.utils.own_code import call_own, name_part

TOKENIZE = "`tokenize(texts: list[str])` returns a numpy array [len(texts), length], int64 or float32."
GUIDE = "See docs/add-an-encoder.md."


def tokenize_texts(encoder: nn.Module, texts: list[str]) -> np.ndarray:
    """Return the encoder's tokens of texts, int64 or float32 [len(texts), length].

    Raises:
        OwnCodeError: `tokenize` of a user's own encoder takes other arguments or fails.
        ModelError: it returned something else.

    """
    method: Any = encoder.tokenize
    tokens = call_own(method, texts, contract=TOKENIZE)
    fits = isinstance(tokens, np.ndarray) and tokens.ndim == 2 and len(tokens) == len(texts)
    if not fits or tokens.dtype not in (np.int64, np.float32):
        found = f"returned {describe_value(tokens)} for {len(texts)} texts"
        raise ModelError(f"model.text: {name_part(encoder)}: `tokenize` {found}.", f"{TOKENIZE} {GUIDE}")
    return tokens


def check_features(place: str, encoder: nn.Module, features: object, rows: int) -> None:
    """Refuse what an encoder's `forward` returned unless it is features [rows, width].

    Args:
        place: of the encoder in the configuration.
        encoder: whose features they are.
        features: what it returned.
        rows: of its input.

    Raises:
        ModelError: they are something else; with the declared width and the found one.

    """
    width: Any = encoder.width
    if isinstance(features, Tensor) and features.is_floating_point() and features.shape == (rows, width):
        return
    found = f"{place}: {name_part(encoder)}: `forward` returned {describe_value(features)}"
    if isinstance(features, Tensor) and features.dim() == 2 and features.shape[1] != width:
        raise ModelError(f"{found}: {features.shape[1]} features, but its `width` is {width}.", f"Correct one. {GUIDE}")
    raise ModelError(
        f"{found} for {rows} rows.", f"It returns a float tensor [rows, width]; `width` is {width}. {GUIDE}"
    )


def is_mixing_rows(encoder: nn.Module, values: Tensor) -> bool:
    """Return whether an encoder's features of a row depend on the other rows, as in an evaluation.

    Args:
        encoder: in evaluation mode.
        values: its inputs, [B, ...].

    """
    with torch.inference_mode():
        together = encoder(values)
        alone = torch.cat([encoder(values[row : row + 1]) for row in range(len(values))])
    tolerance = 1e-2 * float(together.abs().max())  # a GPU's convolutions round to three digits
    return not torch.allclose(together, alone, rtol=0.0, atol=tolerance)
