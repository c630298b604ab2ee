"""Cache the features of frozen encoders, and of the frozen fronts of encoders: they never change during training."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn

from fedhealth.data.dataset import SiteDataset
from fedhealth.data.examples import (
    Examples,
    ModalitySource,
    build_examples,
    get_feature_source_names,
    load_or_compute_array,
)
from fedhealth.models.encoders.base import compute_fingerprint, is_frozen
from fedhealth.models.encoders.checks import tokenize_texts
from fedhealth.models.multimodal import MultimodalModel, Tower

_BATCH = 64


def build_model_inputs(cohort: SiteDataset, model: MultimodalModel, keeps_images: bool = False) -> Examples:
    """Return the cohort as the inputs of `model`: its modalities, its tokens, and cached features of frozen towers.

    Args:
        cohort: of one site.
        model: of the run.
        keeps_images: whether images stay as they are, to be changed in every step.

    """
    tokenize = partial(tokenize_texts, cast(Tower, model.towers["text"]).encoder) if "text" in model.towers else None
    examples = build_examples(cohort, model.modalities, tokenize)
    return add_cached_features(examples, cohort, model, {"image"} if keeps_images else set())


def add_cached_features(
    examples: Examples, cohort: SiteDataset, model: MultimodalModel, without: Collection[str] = ()
) -> Examples:
    """Return examples in which cached outputs replace the inputs of frozen towers and of frozen fronts of towers."""
    for name, tower in model.towers.items():
        encoder = cast(Tower, tower).encoder
        source = examples.sources.get(name)
        if name in without or source is None or not len(source.values):
            continue
        maps, features = get_feature_source_names(name)
        front = getattr(encoder, "front", None)
        if not list(encoder.parameters()):
            continue  # there is nothing to cache
        if is_frozen(encoder):
            examples = _replace_by_features(examples, name, features, cohort, encoder)
        elif front is not None and list(front.parameters()) and _is_smaller_than_input(front, source.values):
            examples = _replace_by_features(examples, name, maps, cohort, front)
    return examples


def _replace_by_features(
    examples: Examples, name: str, stand_in: str, cohort: SiteDataset, fixed: nn.Module
) -> Examples:
    """Replace a modality by the cached outputs of a frozen module."""
    source = examples.sources[name]
    outputs = load_or_compute_array(
        cohort.folder,
        stand_in.replace("_", "-"),
        f"{compute_fingerprint(fixed)}|{source.values.shape}|{_compute_token_digest(name, source)}",
        partial(_encode_in_batches, fixed, source.values),
    )
    return examples.with_source(stand_in, ModalitySource(outputs, source.index), replacing=name)


def _is_smaller_than_input(front: nn.Module, values: np.ndarray) -> bool:
    """Return whether the outputs are no larger than the inputs; the outputs of early layers would fill the disk."""
    return _encode_in_batches(front, values[:1]).size <= values[:1].size


def _compute_token_digest(name: str, source: ModalitySource) -> str:
    """Return the digest of token ids, which depend on the tokenizer; images depend on the cohort only."""
    return hashlib.sha256(source.values.tobytes()).hexdigest() if name == "text" else ""


def _encode_in_batches(encoder: nn.Module, values: np.ndarray) -> np.ndarray:
    """Return the encoder's outputs, float32 [M, ...]."""
    encoder.eval()
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        parts = [
            encoder(torch.from_numpy(np.array(values[start : start + _BATCH])).to(device)).float().cpu().numpy()
            for start in range(0, len(values), _BATCH)
        ]
    return np.concatenate(parts)
