"""Synthetic rows for the checks of private training before a run.

The outcome of these checks leaves the site, so it must not depend on a patient: a crafted model could fail the check if
and only if some patient has a property. The rows are random, from a public seed. They take only shapes from the site's
data, which the configuration determines.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from fedhealth.config.schema import TaskKind
from fedhealth.data.examples import Batch, Examples, ModalitySource, get_feature_source_names
from fedhealth.models.encoders.checks import tokenize_texts
from fedhealth.models.multimodal import MultimodalModel, Tower

_UNITS = 6
_WORDS = 64  # of the longest text
_MISSING_EVERY = 4  # rows: each modality is missing in some, and present in others where another one is missing


def make_check_batch(
    model: MultimodalModel, examples: Examples, kind: TaskKind, max_records: int, units: int = _UNITS
) -> tuple[Batch, list[int]]:
    """Return inputs and targets of a few synthetic units, and the unit of each row; the first has several if allowed.

    Args:
        model: its device, towers and tokenizer.
        examples: the names and shapes of its inputs; no value is read.
        kind: of the prediction task.
        max_records: the most rows of a unit.
        units: their number.

    """
    owners = [0] * min(2, max_records) + list(range(1, units))
    device, random = next(model.parameters()).device, torch.Generator().manual_seed(0)
    batch: Batch = {}
    for place, name in enumerate(sorted(model.towers)):
        present = (torch.arange(len(owners)) + place) % _MISSING_EVERY != 0
        batch[f"{name}_present"] = present
        for source in (name, *get_feature_source_names(name)):
            if source in examples.sources:
                values = _make_values(model, source, examples.sources[source].values, len(owners), random)
                batch[source] = values * present.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)
    batch["targets"] = _make_targets(len(owners), examples.labels.shape[1], kind)
    return {name: value.to(device) for name, value in batch.items()}, owners


def make_check_examples(
    model: MultimodalModel, examples: Examples, kind: TaskKind, max_records: int, units: int
) -> Examples:
    """Return the same as the examples of a site; the arguments are those of `make_check_batch`."""
    batch, owners = make_check_batch(model, examples, kind, max_records, units)
    sources = {}
    for name in sorted(model.towers):
        present = batch[f"{name}_present"].cpu().numpy()
        for source in (name, *get_feature_source_names(name)):
            if source in batch:
                index = np.where(present, np.arange(len(owners)), -1)
                sources[source] = ModalitySource(batch[source].cpu().numpy(), index)
    labels, rows = batch["targets"].cpu().numpy(), np.arange(len(owners))
    return Examples(sources, labels, np.array(owners, np.int64), rows)


def _make_values(model: MultimodalModel, source: str, like: np.ndarray, rows: int, random: torch.Generator) -> Tensor:
    """Return random inputs [rows, ...]; the depth of images and the length of texts do not follow the site's data."""
    if source == "text":
        texts = [" ".join(f"w{row * word}" for word in range(1 + _WORDS * row // rows)) for row in range(rows)]
        return torch.from_numpy(tokenize_texts(cast(Tower, model.towers["text"]).encoder, texts))
    shape = (rows, *like.shape[1:])
    if np.issubdtype(like.dtype, np.integer):
        return torch.randint(0, 256, shape, generator=random).to(torch.uint8)
    return torch.randn(shape, generator=random)


def _make_targets(rows: int, columns: int, kind: TaskKind) -> Tensor:
    """Return both classes in turn; where rows have several labels, one is missing."""
    targets = ((torch.arange(rows)[:, None] + torch.arange(columns)) % 2).float()
    if kind is TaskKind.multilabel and columns > 1:
        targets[0, 0] = torch.nan
    return targets
