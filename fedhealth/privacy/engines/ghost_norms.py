"""Norms and weighted sums of per-patient gradients, without a second backward pass.

`compute_squared_norms` takes the parts of one parameter's gradient (see `layer_gradients`) and returns the squared norm
of every patient's gradient. It also returns the gradients in the form that makes their weighted sum cheapest. The sum
is computed later, when the clip factors are known.

Sources: Bu et al., "Differentially Private Optimization on Large Model at Small Cost", ICML 2023 (book-keeping,
the choice between ghost norm and instantiation); Li et al., ICLR 2022 (ghost norm).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedhealth.privacy.engines.base import PatientIndex, zero_non_finite
from fedhealth.privacy.engines.layer_gradients import (
    ConvOuterProduct,
    EmbeddingGradient,
    GradientPart,
    OuterProduct,
    split_patients,
)

# Multiply-adds that take as long as writing one instantiated gradient value once and reading it twice.
_MEMORY_COST = 48
# Rounding of a float32 dot product relative to the product of the norms (2^-24), see `_compute_ghost_norms`.
_ROUNDING = 6e-8


class UnclippedGradient(Protocol):
    """The patients' gradients of one parameter, before clipping."""

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return sum_i factors[i] * gradient_i, for factors [G], flat or in the parameter's shape.

        A gradient that is not finite has the factor zero, and adds zero.
        """
        ...


@dataclass(frozen=True)
class _InstantiatedGradient:
    grads: Tensor  # [G, n]
    to_parameter_layout: Callable[[Tensor], Tensor]

    def weighted_sum(self, factors: Tensor) -> Tensor:
        return self.to_parameter_layout(factors @ zero_non_finite(self.grads))


@dataclass(frozen=True)
class _FactoredGradient:
    part: OuterProduct | ConvOuterProduct
    patients: PatientIndex

    def weighted_sum(self, factors: Tensor) -> Tensor:
        return self.part.weighted_sum(factors[self.patients.patient_of_row])


@dataclass(frozen=True)
class _SparseEmbeddingGradient:
    """Gradients of only those table entries that each patient used: an embedding's gradients are sparse.

    There is a place for each lookup. Unused places are zero: their number would depend on the patients, and a GPU would
    have to wait until the host knows it.
    """

    values: Tensor  # [N, d]
    owner: Tensor  # [N]
    entry: Tensor  # [N]
    entries: int

    def weighted_sum(self, factors: Tensor) -> Tensor:
        table = self.values.new_zeros((self.entries, self.values.shape[-1]))
        return table.index_add_(0, self.entry, zero_non_finite(self.values * factors[self.owner][:, None]))


def compute_squared_norms(parts: list[GradientPart], patients: PatientIndex) -> tuple[Tensor, list[UnclippedGradient]]:
    """Return the squared norms [G] of one parameter's gradients, and the gradients in their cheapest form."""
    lookups = [part for part in parts if isinstance(part, EmbeddingGradient)]
    outers = [part for part in parts if isinstance(part, OuterProduct | ConvOuterProduct)]
    if len(lookups) == len(parts):
        return _compute_embedding_norms(lookups, patients)
    if len(outers) == len(parts) and _is_ghost_norm_cheaper(outers, patients):
        squared = torch.cat([_compute_ghost_norms(outers, some, patients) for some in split_patients(outers, patients)])
        return squared, [_FactoredGradient(part, patients) for part in outers]
    grads = parts[0].instantiate(patients)
    for part in parts[1:]:
        grads = grads + part.instantiate(patients)
    to_parameter_layout = outers[0].to_parameter_layout if outers else torch.Tensor.contiguous
    return torch.linalg.vector_norm(grads, dim=1).square(), [_InstantiatedGradient(grads, to_parameter_layout)]


def _is_ghost_norm_cheaper(parts: list[OuterProduct | ConvOuterProduct], patients: PatientIndex) -> bool:
    """Compare T^2 (p + d), the cost of the Gram matrices, with writing and reading p d values, per patient.

    The multiply-adds of instantiation do not count: the ghost norm needs as many for the weighted sum.
    """
    places = patients.max_rows * sum(part.size[0] for part in parts)
    _, p, d = parts[0].size
    return places * places * (p + d) <= _MEMORY_COST * p * d


def _compute_ghost_norms(parts: list[OuterProduct | ConvOuterProduct], some: slice, patients: PatientIndex) -> Tensor:
    """Return ||sum_t g_t a_t^T||^2 = sum_ts <a_t, a_s> <g_t, g_s> of some patients, [S].

    Where the terms cancel, rounding could give less than the true norm. A bound on the rounding error, (sum_t |a_t|
    |g_t|)^2 times the unit of rounding, is added, so that the norm is never underestimated.
    """
    pairs = [part.gather(some, patients) for part in parts]
    g, a = pairs[0] if len(pairs) == 1 else (torch.cat(x, 2) for x in zip(*pairs, strict=True))
    gram_a, gram_g = a @ a.transpose(-1, -2), g @ g.transpose(-1, -2)
    diagonals = gram_a.diagonal(0, -2, -1) * gram_g.diagonal(0, -2, -1)
    slack = diagonals.clamp(min=0).sqrt().sum((1, 2)).square() * _ROUNDING
    return gram_a.mul_(gram_g).sum((1, 2, 3)).clamp(min=0) + slack


def _compute_embedding_norms(
    parts: list[EmbeddingGradient], patients: PatientIndex
) -> tuple[Tensor, list[UnclippedGradient]]:
    entries = parts[0].entries
    ids = torch.cat([(patients.patient_of_row[:, None] * entries + part.ids).flatten() for part in parts])
    g = torch.cat([part.g.flatten(0, 1) for part in parts])
    keys, place = _group_equal(ids)
    values = torch.zeros_like(g).index_add_(0, place, g)
    owner = keys // entries
    squared = g.new_zeros(patients.count).index_add_(0, owner, values.square().sum(1))
    return squared, [_SparseEmbeddingGradient(values, owner, keys % entries, entries)]


def _group_equal(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different ids in ascending order, filled up with zeros to [N], and the place of each id there [N]."""
    ordered, order = ids.sort()
    is_first = torch.ones_like(ordered)
    is_first[1:] = ordered[1:] != ordered[:-1]
    place = torch.empty_like(ids).scatter_(0, order, is_first.cumsum(0) - 1)
    return torch.zeros_like(ids).scatter_(0, place, ids), place
