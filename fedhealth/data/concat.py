"""Concatenate several sites' examples, for the baseline that trains on all data in one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedhealth.data.examples import Examples, ModalitySource


class ConcatenatedArray:
    """Arrays concatenated along the first axis without a copy; supports what `ModalitySource` needs of an array.

    Args:
        parts: arrays [M_i, ...] with the same row shape.

    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = np.result_type(*parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the rows at an integer index array."""
        taken = np.empty((len(index), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._starts, index, side="right") - 1
        for part in np.unique(owner):
            chosen = owner == part
            values = self._parts[part][index[chosen] - self._starts[part]]
            deeper = values.dtype == np.uint8 and self.dtype == np.uint16  # 255 and 65535 are both white
            taken[chosen] = values.astype(np.uint16) * 257 if deeper else values
        return taken


def concat_examples(sites: Sequence[Examples], pad: int = 0) -> Examples:
    """Concatenate the examples of all sites; patients and studies of different sites get different ids.

    Args:
        sites: their examples.
        pad: the token id that pads shorter token sequences.

    """
    names = sorted({name for site in sites for name in site.sources})
    return Examples(
        {name: _concat_source(name, sites, pad) for name in names},
        np.concatenate([site.labels for site in sites]),
        concat_ids([site.patient for site in sites]),
        concat_ids([site.study for site in sites]),
        "|".join(site.digest for site in sites),
    )


def _concat_source(name: str, sites: Sequence[Examples], pad: int) -> ModalitySource:
    """Concatenate one modality; the rows of a site that does not have it are marked as missing."""
    tables, indices, start = [], [], 0
    for site in sites:
        source = site.sources.get(name)
        if source is None or not len(source.values):
            indices.append(np.full(len(site.labels), -1))
            continue
        tables.append(source.values)
        indices.append(np.where(source.index >= 0, source.index + start, -1))
        start += len(source.values)
    if not tables:  # no site has it: keep the shape of the empty array
        empty = next(site.sources[name].values for site in sites if name in site.sources)
        return ModalitySource(empty, np.concatenate(indices))
    if name == "text":  # token sequences differ in length
        longest = max(table.shape[1] for table in tables)
        tables = [np.pad(table, ((0, 0), (0, longest - table.shape[1])), constant_values=pad) for table in tables]
    return ModalitySource(ConcatenatedArray(tables), np.concatenate(indices))  # type: ignore[arg-type]


def concat_ids(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate the ids of several sites, renumbered so that no two sites share one."""
    starts = np.cumsum([0, *(int(part.max(initial=-1)) + 1 for part in codes)])
    return np.concatenate([part + start for part, start in zip(codes, starts, strict=False)])
