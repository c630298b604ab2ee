"""Model inputs: for each modality an array of values and, for each row, an index into it (-1 = missing)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedhealth.data.dataset import SiteDataset
from fedhealth.utils.atomic_io import atomic_writer

if TYPE_CHECKING:
    from fedhealth.data.augmentation import Augmentation

Batch = dict[str, Tensor]
Tokenize = Callable[[list[str]], np.ndarray]


_FEATURE_SUFFIXES = ("_maps", "_features")


def get_feature_source_names(modality: str) -> tuple[str, str]:
    """Return the source names for a modality's cached outputs: of the frozen front layers, and of the whole encoder."""
    return modality + _FEATURE_SUFFIXES[0], modality + _FEATURE_SUFFIXES[1]


def _strip_suffix(source: str) -> str:
    return source.removesuffix(_FEATURE_SUFFIXES[0]).removesuffix(_FEATURE_SUFFIXES[1])


@dataclass(frozen=True)
class ModalitySource:
    """One modality. `values` [M, ...] may be memory-mapped; `index` int64 [N], -1 = missing in that row."""

    values: np.ndarray
    index: np.ndarray

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the values [B, ...] (zero where missing) and a bool mask [B] (True = present)."""
        index = self.index[rows]
        present = index >= 0
        if present.all():
            return torch.from_numpy(self.values[index]), torch.from_numpy(present)
        picked = np.zeros((len(rows), *self.values.shape[1:]), self.values.dtype)
        picked[present] = self.values[index[present]]
        return torch.from_numpy(picked), torch.from_numpy(present)


@dataclass(frozen=True)
class Examples:
    """A site's dataset as model inputs.

    Attributes:
        sources: by modality name, or by a name of `get_feature_source_names` where cached encoder outputs replace it.
        labels: float32 [N, K]; NaN = missing.
        patient: int64 [N].
        study: int64 [N].
        digest: of the dataset; empty if unknown.
        augmentation: changes the images of every batch at random, for training; None for none.

    """

    sources: dict[str, ModalitySource]
    labels: np.ndarray
    patient: np.ndarray
    study: np.ndarray
    digest: str = ""
    augmentation: Augmentation | None = None

    @property
    def copies(self) -> int:
        """The number of changed copies of each row in a training step."""
        return self.augmentation.copies if self.augmentation else 1

    def batch(self, rows: np.ndarray) -> Batch:
        """Gather the inputs of `rows`: `<name>` [B, ...] and `<modality>_present` bool [B].

        A modality that none of the rows has is omitted, so that its encoder does not run.
        """
        batch: Batch = {}
        for name, source in self.sources.items():
            values, present = source.take(rows)
            batch[f"{_strip_suffix(name)}_present"] = present
            if present.any():
                batch[name] = values
        if self.augmentation and "image" in batch:
            batch["image"] = self.augmentation.change_images(batch["image"], batch["image_present"])
        return batch

    def targets(self, rows: np.ndarray) -> Tensor:
        """Return labels float32 [B, K]; NaN = missing."""
        return torch.from_numpy(self.labels[rows])

    def with_source(self, name: str, source: ModalitySource, replacing: str) -> Examples:
        """Return a copy in which `source` replaces the modality `replacing`."""
        others = {key: value for key, value in self.sources.items() if key != replacing}
        return replace(self, sources=others | {name: source})


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device; a GPU copies it while the host goes on."""
    if device.type != "cuda":
        return {name: value.to(device) for name, value in batch.items()}
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}


def build_examples(dataset: SiteDataset, modalities: frozenset[str], tokenize: Tokenize | None) -> Examples:
    """Return the dataset's examples for the modalities that a model has.

    Args:
        dataset: the site's rows.
        modalities: of `image`, `text`, `tabular`.
        tokenize: list of texts -> token ids [n, length], 0 = padding; needed for `text`.

    """
    sources: dict[str, ModalitySource] = {}
    if "image" in modalities:
        sources["image"] = ModalitySource(dataset.images, dataset.image_index)
    if "text" in modalities and tokenize is not None:
        sources["text"] = _tokenize_texts(dataset, tokenize)
    if "tabular" in modalities:
        rows = np.arange(len(dataset.tabular))
        sources["tabular"] = ModalitySource(dataset.tabular, np.where(dataset.tabular_present, rows, -1))
    return Examples(sources, dataset.labels, dataset.patient, dataset.study, dataset.digest)


def _tokenize_texts(dataset: SiteDataset, tokenize: Tokenize) -> ModalitySource:
    texts = sorted(set(dataset.texts) - {""})
    slot = {text: index for index, text in enumerate(texts)}
    index = np.array([slot.get(text, -1) for text in dataset.texts], np.int64)
    return ModalitySource(tokenize(texts) if texts else np.zeros((0, 1), np.int64), index)


def load_or_compute_array(folder: Path, kind: str, identity: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return a memory-mapped array from `folder`; compute and store it first if it is not there.

    Args:
        folder: a dataset's cache folder.
        kind: prefix of the file's name.
        identity: everything the array depends on besides the dataset.
        compute: returns the array.

    """
    path = folder / f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:20]}.npy"
    if not path.is_file():
        with atomic_writer(path, durable=False) as file:
            np.save(file, compute(), allow_pickle=False)
    loaded: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded


def iterate_batches(rows: np.ndarray, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield batches of row indices endlessly; shuffle for every epoch; the last batch of an epoch may be short."""
    while True:
        order = generator.permutation(rows)
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]
