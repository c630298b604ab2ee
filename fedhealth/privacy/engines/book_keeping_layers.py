"""Per-patient gradients layer by layer: their norms, and their weighted sum, without a second backward.

A layer's rule turns its input and its output's gradient into *parts*: the pieces of one parameter's gradient, kept
factored per row. Reused and tied layers give one parameter several parts. `settle` finds the patients' squared norms
and keeps what is cheapest for the weighted sum that follows once the clip factors are known.

Sources: Bu et al., "Differentially Private Optimization on Large Model at Small Cost", ICML 2023 (book-keeping,
the choice between ghost norm and instantiation); Li et al., ICLR 2022 (ghost norm).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import Patients

# One instantiated gradient value is written once and read twice; in that time about this many multiply-adds are done.
_MEMORY_COST = 48
# Rounding of a float32 dot product relative to the product of the norms (2^-24), see `_ghost`.
_ROUNDING = 6e-8
# Image patches made at a time: 1 MB in float32, to stay in the cache.
_CACHED_VALUES = 1 << 18


class Settled(Protocol):
    """A parameter's gradients, waiting for the clip factors."""

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return sum_i factors[i] * gradient_i, for factors [G], flat or in the parameter's shape."""
        ...


@dataclass(frozen=True)
class Rows:
    """A gradient given per row: [B, ...]."""

    grads: Tensor

    def instantiate(self, patients: Patients) -> Tensor:
        """Return the patients' gradients [G, n]."""
        return patients.add_up(self.grads.flatten(1))


@dataclass(frozen=True)
class Outer:
    """The gradient sum_t g_t a_t^T of a linear map applied at T places, in K independent blocks (conv groups).

    Attributes:
        a: [B, K, T, d] inputs.
        g: [B, K, T, p] gradients of the outputs.

    """

    a: Tensor
    g: Tensor

    @property
    def size(self) -> tuple[int, int, int]:
        """T, p, d."""
        return self.g.shape[2], self.g.shape[3], self.a.shape[3]

    def of(self, some: slice, patients: Patients) -> tuple[Tensor, Tensor]:
        """Return g and a of some patients, each one's rows end to end along T: [S, K, M * T, .]."""
        rows = patients.rows_of(some)
        return patients.end_to_end(self.g[rows], some), patients.end_to_end(self.a[rows], some)

    def instantiate(self, patients: Patients) -> Tensor:
        """Return the patients' gradients [G, K * p * d]."""
        return _instantiate(self, patients)

    def arrange(self, total: Tensor) -> Tensor:
        """Return a sum of instantiated gradients [K * p * d] in the parameter's layout."""
        return total

    def weighted_sum(self, row_factors: Tensor) -> Tensor:
        """Return sum_b row_factors[b] * gradient_b, for factors [B]."""
        g = (self.g * row_factors[:, None, None, None]).flatten(0, 2)
        return g.T @ self.a.flatten(0, 2)


@dataclass(frozen=True)
class ConvOuter:
    """The same for a convolution: a_t is the image patch under the kernel at place t, made only when needed.

    Attributes:
        module: the layer.
        image: [B, C, H, W] its input.
        gradient: [B, P, H', W'] of its output.

    """

    module: nn.Conv2d
    image: Tensor
    gradient: Tensor

    @property
    def size(self) -> tuple[int, int, int]:
        """T, p, d."""
        blocks, weight = self.module.groups, self.module.weight
        return self.gradient[0, 0].numel(), weight.shape[0] // blocks, weight[0].numel()

    def of(self, some: slice, patients: Patients) -> tuple[Tensor, Tensor]:
        """Return g and a of some patients, each one's rows end to end along T: [S, K, M * T, .]."""
        rows, (places, p, _) = patients.rows_of(some), self.size
        g = self.gradient[rows].reshape(-1, self.module.groups, p, places).transpose(-1, -2)
        a = _patches(self.module, self.image[rows])
        return patients.end_to_end(g, some), patients.end_to_end(a, some)

    def instantiate(self, patients: Patients) -> Tensor:
        """Return the patients' gradients [G, P * kernel * C], channels last."""
        return _instantiate(self, patients)

    def arrange(self, total: Tensor) -> Tensor:
        """Return a sum of instantiated gradients in the layout of the weight [P, C, kernel]."""
        outputs, inputs, *kernel = self.module.weight.shape
        return total.view(outputs, *kernel, inputs).permute(0, 3, 1, 2)

    def weighted_sum(self, row_factors: Tensor) -> Tensor:
        """Return sum_b row_factors[b] * gradient_b, for factors [B]."""
        module, (places, p, _) = self.module, self.size
        # With patches smaller than the weight, one product is two to three times faster than the library's backward,
        # which rearranges the weight (measured on a CPU).
        if len(self.image) * places <= p:
            return self._product(row_factors)
        _, weight, _ = torch.ops.aten.convolution_backward(
            self.gradient * row_factors[:, None, None, None],
            self.image,
            module.weight,
            None,
            module.stride,
            _padding(module),
            module.dilation,
            False,
            [0, 0],
            module.groups,
            [False, True, False],
        )
        return weight

    def _product(self, row_factors: Tensor) -> Tensor:
        """Return the weighted sum as one matrix product over all rows' places, in each block."""
        blocks, (_, p, d) = self.module.groups, self.size
        g = (self.gradient * row_factors[:, None, None, None]).reshape(len(self.gradient), blocks, p, -1)
        a = _patches(self.module, self.image)
        summed = g.permute(1, 2, 0, 3).flatten(2) @ a.transpose(0, 1).flatten(1, 2)
        return self.arrange(summed.reshape(blocks * p * d))


@dataclass(frozen=True)
class Lookup:
    """The gradient of an embedding table.

    Attributes:
        ids: [B, T].
        g: [B, T, d]; zero at the padding index.
        entries: rows of the table.

    """

    ids: Tensor
    g: Tensor
    entries: int

    def instantiate(self, patients: Patients) -> Tensor:
        """Return the patients' gradients [G, entries * d]."""
        table = self.g.new_zeros((patients.count * self.entries, self.g.shape[-1]))
        keys = patients.of_row[:, None] * self.entries + self.ids
        return table.index_add_(0, keys.flatten(), self.g.flatten(0, 1)).view(patients.count, -1)


Part = Rows | Outer | ConvOuter | Lookup


@dataclass(frozen=True)
class _Instantiated:
    grads: Tensor  # [G, n]
    arrange: Callable[[Tensor], Tensor]

    def weighted_sum(self, factors: Tensor) -> Tensor:
        return self.arrange(factors @ self.grads)


@dataclass(frozen=True)
class _Factored:
    part: Outer | ConvOuter
    patients: Patients

    def weighted_sum(self, factors: Tensor) -> Tensor:
        return self.part.weighted_sum(factors[self.patients.of_row])


@dataclass(frozen=True)
class _Compact:
    """Only the table entries that each patient touched: an embedding's gradients are sparse."""

    values: Tensor  # [U, d]
    owner: Tensor  # [U]
    entry: Tensor  # [U]
    entries: int

    def weighted_sum(self, factors: Tensor) -> Tensor:
        table = self.values.new_zeros((self.entries, self.values.shape[-1]))
        return table.index_add_(0, self.entry, self.values * factors[self.owner][:, None])


def settle(parts: list[Part], patients: Patients) -> tuple[Tensor, list[Settled]]:
    """Return the squared norms [G] of one parameter's gradients, and the gradients in their cheapest form."""
    lookups = [part for part in parts if isinstance(part, Lookup)]
    outers = [part for part in parts if isinstance(part, Outer | ConvOuter)]
    if len(lookups) == len(parts):
        return _settle_lookups(lookups, patients)
    if len(outers) == len(parts) and _ghost_is_cheaper(outers, patients):
        squared = torch.cat([_ghost(outers, some, patients) for some in _spans(outers, patients)])
        return squared, [_Factored(part, patients) for part in outers]
    grads = parts[0].instantiate(patients)
    for part in parts[1:]:
        grads = grads + part.instantiate(patients)
    arrange = outers[0].arrange if outers else torch.Tensor.contiguous
    return torch.linalg.vector_norm(grads, dim=1).square(), [_Instantiated(grads, arrange)]


def _ghost_is_cheaper(parts: list[Outer | ConvOuter], patients: Patients) -> bool:
    """Compare T^2 (p + d), the cost of the Gram matrices, with writing and reading p d values, per patient.

    The multiply-adds of instantiation do not count: ghost spends as many on the weighted sum.
    """
    places = patients.most_rows * sum(part.size[0] for part in parts)
    _, p, d = parts[0].size
    return places * places * (p + d) <= _MEMORY_COST * p * d


def _spans(parts: list[Outer | ConvOuter], patients: Patients) -> list[slice]:
    """Split the patients so that the image patches made at a time stay in the cache."""
    places = sum(part.size[0] for part in parts if isinstance(part, ConvOuter))
    values = places * parts[0].size[2] * patients.most_rows
    step = max(1, _CACHED_VALUES // values) if values else patients.count
    return [slice(start, start + step) for start in range(0, patients.count, step)]


def _instantiate(part: Outer | ConvOuter, patients: Patients) -> Tensor:
    _, p, d = part.size
    blocks = part.module.groups if isinstance(part, ConvOuter) else part.g.shape[1]
    g = part.gradient if isinstance(part, ConvOuter) else part.g
    grads = g.new_empty((patients.count, blocks, p, d))
    for some in _spans([part], patients):
        g, a = part.of(some, patients)
        torch.matmul(g.transpose(-1, -2), a, out=grads[some])
    return grads.flatten(1)


def _ghost(parts: list[Outer | ConvOuter], some: slice, patients: Patients) -> Tensor:
    """Return ||sum_t g_t a_t^T||^2 = sum_ts <a_t, a_s> <g_t, g_s> of some patients, [S].

    Where the terms cancel, rounding could leave less than the true norm: a bound on it, (sum_t |a_t| |g_t|)^2 times
    the unit of rounding, is added, so that the clip errs on the safe side.
    """
    pairs = [part.of(some, patients) for part in parts]
    g, a = pairs[0] if len(pairs) == 1 else (torch.cat(x, 2) for x in zip(*pairs, strict=True))
    gram_a, gram_g = a @ a.transpose(-1, -2), g @ g.transpose(-1, -2)
    diagonals = gram_a.diagonal(0, -2, -1) * gram_g.diagonal(0, -2, -1)
    slack = diagonals.clamp(min=0).sqrt().sum((1, 2)).square() * _ROUNDING
    return gram_a.mul_(gram_g).sum((1, 2, 3)).clamp(min=0) + slack


def _settle_lookups(parts: list[Lookup], patients: Patients) -> tuple[Tensor, list[Settled]]:
    entries = parts[0].entries
    ids = torch.cat([(patients.of_row[:, None] * entries + part.ids).flatten() for part in parts])
    g = torch.cat([part.g.flatten(0, 1) for part in parts])
    keys, inverse = torch.unique(ids, return_inverse=True)
    values = g.new_zeros((len(keys), g.shape[-1])).index_add_(0, inverse, g)
    owner = keys // entries
    squared = g.new_zeros(patients.count).index_add_(0, owner, values.square().sum(1))
    return squared, [_Compact(values, owner, keys % entries, entries)]


# --- one rule a layer: (module, input, gradient of the output) -> parts of weight and bias ---------------------------

Rule = Callable[[Any, Tensor, Tensor], dict[str, Part]]


def _linear(module: nn.Linear, a: Tensor, g: Tensor) -> dict[str, Part]:
    a, g = (x.reshape(x.shape[0], 1, -1, x.shape[-1]) for x in (a, g))
    return {"weight": Outer(a, g), "bias": Rows(g.sum((1, 2)))}


def _conv(module: nn.Conv2d, a: Tensor, g: Tensor) -> dict[str, Part]:
    return {"weight": ConvOuter(module, a, g), "bias": Rows(g.flatten(2).sum(2))}


def _patches(module: nn.Conv2d, image: Tensor) -> Tensor:
    """Return the patches under the kernel [B, K, T, kernel * C / K], channels last: its rows are then long copies."""
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    (ph, pw), (b, c, h, w) = _padding(module), image.shape
    padded = image.new_zeros((b, h + 2 * ph, w + 2 * pw, c))
    padded[:, ph : ph + h, pw : pw + w] = image.permute(0, 2, 3, 1)
    out_h, out_w = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    row, line, place, _ = padded.stride()
    shape = (b, out_h, out_w, kh, kw, module.groups, c // module.groups)
    strides = (row, sh * line, sw * place, dh * line, dw * place, c // module.groups, 1)
    windows = padded.as_strided(shape, strides).permute(0, 5, 1, 2, 3, 4, 6)
    return windows.reshape(b, module.groups, out_h * out_w, -1)


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    if module.padding == "same":
        (dh, dw), (kh, kw) = module.dilation, module.kernel_size
        return dh * (kh - 1) // 2, dw * (kw - 1) // 2
    return (0, 0) if isinstance(module.padding, str) else (module.padding[0], module.padding[1])


def _embedding(module: nn.Embedding, ids: Tensor, g: Tensor) -> dict[str, Part]:
    ids, g = ids.reshape(ids.shape[0], -1), g.reshape(g.shape[0], -1, g.shape[-1])
    if module.padding_idx is not None:
        g = g * (ids != module.padding_idx)[..., None]
    return {"weight": Lookup(ids, g, module.num_embeddings)}


def _layer_norm(module: nn.LayerNorm, a: Tensor, g: Tensor) -> dict[str, Part]:
    normal = F.layer_norm(a, module.normalized_shape, None, None, module.eps)
    return _affine(normal, g, len(module.normalized_shape))


def _rms_norm(module: nn.RMSNorm, a: Tensor, g: Tensor) -> dict[str, Part]:
    normal = F.rms_norm(a, module.normalized_shape, None, module.eps)
    return _affine(normal, g, len(module.normalized_shape))


def _affine(normal: Tensor, g: Tensor, last: int) -> dict[str, Part]:
    """Return the parts of y = normal * weight + bias over the last dimensions, summed over those between."""
    between = list(range(1, g.dim() - last))
    weight = normal.mul_(g)
    return {
        "weight": Rows(weight.sum(between) if between else weight),
        "bias": Rows(g.sum(between) if between else g),
    }


def _group_norm(module: nn.GroupNorm, a: Tensor, g: Tensor) -> dict[str, Part]:
    normal = F.group_norm(a, module.num_groups, None, None, module.eps)
    weight, bias = (x.reshape(*x.shape[:2], -1).sum(2) for x in (normal.mul_(g), g))
    return {"weight": Rows(weight), "bias": Rows(bias)}


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
}


def rule_for(name: str, module: nn.Module) -> Rule:
    """Return the rule of a layer that has trainable parameters of its own.

    A subclass counts as its parent as long as it keeps the parent's forward.

    Raises:
        PrivacyError: naming the layer, when no rule is known for it.

    """
    _refuse_options(name, module)
    for kind, rule in RULES.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return rule
    own = ", ".join(n for n, p in module.named_parameters(recurse=False) if p.requires_grad)
    raise PrivacyError(
        f"layer {name or '(the model itself)'} ({type(module).__name__}) has trainable parameters ({own}) for which "
        "no per-patient gradient is known",
        "Freeze them, replace the layer (nn.Embedding(1, d) for a bare nn.Parameter), or use the oracle engine.",
    )


def _refuse_options(name: str, module: nn.Module) -> None:
    fault = ""
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        fault = "max_norm, scale_grad_by_freq or sparse"
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros":
            fault = f"padding_mode={module.padding_mode!r}"
        uneven = any(d * (k - 1) % 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
        if module.padding == "same" and uneven:
            fault = "padding='same' with an even kernel"
    if fault:
        raise PrivacyError(
            f"layer {name} ({type(module).__name__}) uses {fault}, for which no per-patient gradient is known",
            "Build the layer without this option or freeze it.",
        )
