"""Several sites' examples as one table: what a centralised study would train on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedhealth.data.batches import Examples, Source


class Stacked:
    """Value tables one below the other, without copying them: enough of an array for `Source`.

    Args:
        parts: tables [M_i, ...] of one row shape.

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


def pool_examples(sites: Sequence[Examples], pad: int = 0) -> Examples:
    """Return the examples of all sites, row after row, patients and studies kept apart.

    Args:
        sites: their examples.
        pad: the token id that fills up shorter token tables.

    """
    names = sorted({name for site in sites for name in site.sources})
    return Examples(
        {name: _pool_source(name, sites, pad) for name in names},
        np.concatenate([site.labels for site in sites]),
        apart([site.patient for site in sites]),
        apart([site.study for site in sites]),
    )


def _pool_source(name: str, sites: Sequence[Examples], pad: int) -> Source:
    """Stack one modality; a site that has none of it contributes rows without it."""
    tables, indices, start = [], [], 0
    for site in sites:
        source = site.sources.get(name)
        if source is None or not len(source.values):
            indices.append(np.full(len(site.labels), -1))
            continue
        tables.append(source.values)
        indices.append(np.where(source.index >= 0, source.index + start, -1))
        start += len(source.values)
    if not tables:  # nobody has any: keep the shape of the empty table
        empty = next(site.sources[name].values for site in sites if name in site.sources)
        return Source(empty, np.concatenate(indices))
    if name == "text":  # token tables differ in length
        longest = max(table.shape[1] for table in tables)
        tables = [np.pad(table, ((0, 0), (0, longest - table.shape[1])), constant_values=pad) for table in tables]
    return Source(Stacked(tables), np.concatenate(indices))  # type: ignore[arg-type]


def apart(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Return codes of several tables one after the other, renumbered so that none is shared."""
    starts = np.cumsum([0, *(int(part.max(initial=-1)) + 1 for part in codes)])
    return np.concatenate([part + start for part, start in zip(codes, starts, strict=False)])
