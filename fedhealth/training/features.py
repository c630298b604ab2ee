"""A frozen encoder says the same about an image every time: ask it once and keep the answer."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn

from fedhealth.data.batches import Examples, Source, cached, examples_of
from fedhealth.data.cohort import Cohort
from fedhealth.models.encoder import identity, is_frozen
from fedhealth.models.multimodal import MultimodalModel, Tower

_BATCH = 64


def model_inputs(cohort: Cohort, model: MultimodalModel) -> Examples:
    """Return the cohort as the inputs of `model`: its modalities, its tokens, its frozen towers already applied."""
    text = model.towers["text"].encoder if "text" in model.towers else None
    examples = examples_of(cohort, model.modalities, getattr(text, "tokenize", None))
    return with_features(examples, cohort, model)


def with_features(examples: Examples, cohort: Cohort, model: MultimodalModel) -> Examples:
    """Return examples in which every frozen tower's inputs are replaced by its cached outputs."""
    for name, tower in model.towers.items():
        encoder = cast(Tower, tower).encoder
        source = examples.sources.get(name)
        if source is None or not len(source.values) or not is_frozen(encoder):
            continue
        features = cached(
            cohort.folder,
            f"{name}-features",
            f"{identity(encoder)}|{source.values.shape}|{_tokens_digest(name, source)}",
            partial(_encode, encoder, source.values),
        )
        examples = examples.with_source(f"{name}_features", Source(features, source.index), replacing=name)
    return examples


def _tokens_digest(name: str, source: Source) -> str:
    """Return what the folder's name does not say: token ids depend on the tokenizer, images on the cohort alone."""
    return hashlib.sha256(source.values.tobytes()).hexdigest() if name == "text" else ""


def _encode(encoder: nn.Module, values: np.ndarray) -> np.ndarray:
    """Return float32 [M, width]."""
    encoder.eval()
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        parts = [
            encoder(torch.from_numpy(np.array(values[start : start + _BATCH])).to(device)).float().cpu().numpy()
            for start in range(0, len(values), _BATCH)
        ]
    return np.concatenate(parts)
