"""What a model eats: for each modality a value table and, per row, which entry of it (or none)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedhealth.data.dataset import Cohort

Batch = dict[str, Tensor]
Tokenize = Callable[[list[str]], np.ndarray]


_STAND_INS = ("_maps", "_features")


def stand_ins(modality: str) -> tuple[str, str]:
    """Return what sources are called that hold what an encoder's frozen front, or all of it, makes of a modality."""
    return modality + _STAND_INS[0], modality + _STAND_INS[1]


def _modality(source: str) -> str:
    return source.removesuffix(_STAND_INS[0]).removesuffix(_STAND_INS[1])


@dataclass(frozen=True)
class Source:
    """One modality. `values` [M, ...] may be memory-mapped; `index` int64 [N], -1 = missing in that row."""

    values: np.ndarray
    index: np.ndarray

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the values [B, ...] (zero where missing) and bool [B]: present?"""
        index = self.index[rows]
        present = index >= 0
        if present.all():
            return torch.from_numpy(self.values[index]), torch.from_numpy(present)
        picked = np.zeros((len(rows), *self.values.shape[1:]), self.values.dtype)
        picked[present] = self.values[index[present]]
        return torch.from_numpy(picked), torch.from_numpy(present)


@dataclass(frozen=True)
class Examples:
    """A cohort as model inputs.

    Attributes:
        sources: by modality name, or by one of its `stand_ins` where a frozen encoder's outputs are used instead.
        labels: float32 [N, K]; NaN = missing.
        patient: int64 [N].
        study: int64 [N].

    """

    sources: dict[str, Source]
    labels: np.ndarray
    patient: np.ndarray
    study: np.ndarray

    def batch(self, rows: np.ndarray) -> Batch:
        """Gather the inputs of `rows`: `<name>` [B, ...] and `<modality>_present` bool [B].

        Values that no row has are left out, so that their encoder need not run.
        """
        batch: Batch = {}
        for name, source in self.sources.items():
            values, present = source.take(rows)
            batch[f"{_modality(name)}_present"] = present
            if present.any():
                batch[name] = values
        return batch

    def targets(self, rows: np.ndarray) -> Tensor:
        """Return labels float32 [B, K]; NaN = missing."""
        return torch.from_numpy(self.labels[rows])

    def with_source(self, name: str, source: Source, replacing: str) -> Examples:
        """Return examples in which `source` stands in for the modality `replacing`."""
        others = {key: value for key, value in self.sources.items() if key != replacing}
        return replace(self, sources=others | {name: source})


def examples_of(cohort: Cohort, modalities: frozenset[str], tokenize: Tokenize | None) -> Examples:
    """Return the cohort's examples for the modalities that a model has.

    Args:
        cohort: the site's rows.
        modalities: of `image`, `text`, `tabular`.
        tokenize: list of texts -> token ids [n, length], 0 = padding; needed for `text`.

    """
    sources: dict[str, Source] = {}
    if "image" in modalities:
        sources["image"] = Source(cohort.images, cohort.image_index)
    if "text" in modalities and tokenize is not None:
        sources["text"] = _tokens(cohort, tokenize)
    if "tabular" in modalities:
        rows = np.arange(len(cohort.tabular))
        sources["tabular"] = Source(cohort.tabular, np.where(cohort.tabular_present, rows, -1))
    return Examples(sources, cohort.labels, cohort.patient, cohort.study)


def _tokens(cohort: Cohort, tokenize: Tokenize) -> Source:
    texts = sorted(set(cohort.texts) - {""})
    slot = {text: index for index, text in enumerate(texts)}
    index = np.array([slot.get(text, -1) for text in cohort.texts], np.int64)
    return Source(tokenize(texts) if texts else np.zeros((0, 1), np.int64), index)


def cached(folder: Path, kind: str, identity: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array that `compute` gives, memory-mapped from `folder` once it has been computed.

    Args:
        folder: a cohort's cache folder.
        kind: what it is, for the file's name.
        identity: everything the array depends on besides the cohort.
        compute: makes it.

    """
    path = folder / f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:20]}.npy"
    if not path.is_file():
        draft = path.with_name(f".{path.stem}.{os.getpid()}.npy")
        np.save(draft, compute(), allow_pickle=False)
        draft.replace(path)
    loaded: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded


def epochs(rows: np.ndarray, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield batches of row indices for ever, each pass over `rows` in a new order; the last batch may be short."""
    while True:
        order = generator.permutation(rows)
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]
