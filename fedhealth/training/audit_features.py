"""Frozen large encoders with cached outputs, so that an audit of many steps takes seconds.

Sampling, clipping, noise and bookings do not depend on what computes a tower's features. The tensors of a large encoder
are audited apart, in a few steps of the whole model, and its gradients by the self-check of the engine.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import numpy as np
import torch
from torch import nn

from fedhealth.data.examples import Examples, ModalitySource, get_feature_source_names
from fedhealth.models.encoders.base import is_frozen
from fedhealth.models.multimodal import MultimodalModel, Tower

_LARGE = 200_000  # weights of an encoder
_BATCH = 16


def list_large_encoders(model: MultimodalModel) -> list[str]:
    """Return the towers with a large encoder that is trained, at least in part."""
    found = []
    for name, tower in model.towers.items():
        encoder = cast(Tower, tower).encoder
        if not is_frozen(encoder) and sum(p.numel() for p in encoder.parameters()) > _LARGE:
            found.append(name)
    return found


def freeze_encoders(model: MultimodalModel, names: Collection[str], examples: Examples, rows: np.ndarray) -> Examples:
    """Freeze the encoders of some towers in place, and return examples with their outputs.

    Args:
        model: of the audit.
        names: of the towers.
        examples: to train on.
        rows: that have the modality afterwards, if they had it before.

    """
    for name in names:
        encoder = cast(Tower, model.towers[name]).encoder
        encoder.requires_grad_(False)
        maps, features = get_feature_source_names(name)
        given = maps if maps in examples.sources else name
        if given not in examples.sources:
            continue
        source = examples.sources[given]
        chosen = rows[source.index[rows] >= 0]
        outputs = _compute_outputs(encoder, source.values[source.index[chosen]], given == maps)
        index = np.full(len(source.index), -1)
        index[chosen] = np.arange(len(chosen))
        examples = examples.with_source(features, ModalitySource(outputs, index), replacing=given)
    return examples


def _compute_outputs(encoder: nn.Module, values: np.ndarray, are_maps: bool) -> np.ndarray:
    """Return the encoder's outputs, float32 [M, width]."""
    encoder.eval()
    device = next(encoder.parameters()).device
    parts = [np.empty((0, cast(int, encoder.width)), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(values), _BATCH):
            part = torch.from_numpy(np.array(values[start : start + _BATCH])).to(device)
            found = encoder.finish(part) if are_maps else encoder(part)  # type: ignore[operator]
            parts.append(found.float().cpu().numpy())
    return np.concatenate(parts)
