"""A frozen encoder, or its frozen front, says the same about an image every time: ask it once and keep the answer."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn

from fedhealth.data.batches import Examples, Source, cached, examples_of, stand_ins
from fedhealth.data.dataset import Cohort
from fedhealth.models.encoders.base import identity, is_frozen
from fedhealth.models.multimodal import MultimodalModel, Tower

_BATCH = 64


def model_inputs(cohort: Cohort, model: MultimodalModel) -> Examples:
    """Return the cohort as the inputs of `model`: its modalities, its tokens, its frozen towers already applied."""
    text = model.towers["text"].encoder if "text" in model.towers else None
    examples = examples_of(cohort, model.modalities, getattr(text, "tokenize", None))
    return with_features(examples, cohort, model)


def with_features(examples: Examples, cohort: Cohort, model: MultimodalModel) -> Examples:
    """Return examples in which the inputs of frozen towers, and of towers' frozen fronts, are cached outputs."""
    for name, tower in model.towers.items():
        encoder = cast(Tower, tower).encoder
        source = examples.sources.get(name)
        if source is None or not len(source.values):
            continue
        maps, features = stand_ins(name)
        front = getattr(encoder, "front", None)
        if not list(encoder.parameters()):
            continue  # it does nothing that is worth keeping
        if is_frozen(encoder):
            examples = _replaced(examples, name, features, cohort, encoder)
        elif front is not None and list(front.parameters()) and _small(front, source.values):
            examples = _replaced(examples, name, maps, cohort, front)
    return examples


def _replaced(examples: Examples, name: str, stand_in: str, cohort: Cohort, fixed: nn.Module) -> Examples:
    """Let the cached outputs of a module that is not trained stand in for a modality."""
    source = examples.sources[name]
    outputs = cached(
        cohort.folder,
        stand_in.replace("_", "-"),
        f"{identity(fixed)}|{source.values.shape}|{_tokens_digest(name, source)}",
        partial(_encode, fixed, source.values),
    )
    return examples.with_source(stand_in, Source(outputs, source.index), replacing=name)


def _small(front: nn.Module, values: np.ndarray) -> bool:
    """Return whether outputs are no more numbers than the inputs: those of early layers would fill the disk."""
    return _encode(front, values[:1]).size <= values[:1].size


def _tokens_digest(name: str, source: Source) -> str:
    """Return what the folder's name does not say: token ids depend on the tokenizer, images on the cohort alone."""
    return hashlib.sha256(source.values.tobytes()).hexdigest() if name == "text" else ""


def _encode(encoder: nn.Module, values: np.ndarray) -> np.ndarray:
    """Return float32 [M, ...]."""
    encoder.eval()
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        parts = [
            encoder(torch.from_numpy(np.array(values[start : start + _BATCH])).to(device)).float().cpu().numpy()
            for start in range(0, len(values), _BATCH)
        ]
    return np.concatenate(parts)
