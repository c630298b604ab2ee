"""The gradient of one parameter, factored per row, as a layer's input and its output's gradient give it.

A layer rule (`layer_rules`) splits a gradient into *parts*. A reused or tied layer gives one parameter several parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from fedhealth.privacy.engines.base import PatientIndex, disable_tf32, zero_non_finite

# Values that are processed at a time (image patches, or rows of a grouped convolution): 1 MB in float32, to stay in a
# CPU's cache; on a GPU 256 MB, as each piece costs the start of several kernels.
CPU_VALUES, GPU_VALUES = 1 << 18, 1 << 26


@dataclass(frozen=True)
class RowGradients:
    """A gradient given per row: [B, ...]."""

    grads: Tensor

    def instantiate(self, patients: PatientIndex) -> Tensor:
        """Return the patients' gradients [G, n]."""
        return patients.sum_over_rows(self.grads.flatten(1))

    def weighted_sum(self, row_factors: Tensor) -> Tensor:
        """Return sum_b row_factors[b] * gradient_b, for factors [B]; a gradient that is not finite adds zero."""
        return row_factors @ zero_non_finite(self.grads.flatten(1))


@dataclass(frozen=True)
class OuterProduct:
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

    def gather(self, some: slice, patients: PatientIndex) -> tuple[Tensor, Tensor]:
        """Return g and a of some patients, each one's rows end to end along T: [S, K, M * T, .]."""
        rows = patients.get_rows(some)
        return patients.concatenate_rows(self.g[rows], some), patients.concatenate_rows(self.a[rows], some)

    def instantiate(self, patients: PatientIndex) -> Tensor:
        """Return the patients' gradients [G, K * p * d]."""
        return _instantiate_gradients(self, patients)

    def to_parameter_layout(self, total: Tensor) -> Tensor:
        """Return a sum of instantiated gradients [K * p * d] in the parameter's layout."""
        return total

    def weighted_sum(self, row_factors: Tensor) -> Tensor:
        """Return sum_b row_factors[b] * gradient_b, for factors [B]; a gradient that is not finite adds zero."""
        g = zero_non_finite(self.g * row_factors[:, None, None, None]).flatten(0, 2)
        return g.T @ zero_non_finite(self.a).flatten(0, 2)


@dataclass(frozen=True)
class ConvOuterProduct:
    """The same for a convolution: a_t is the image patch under the kernel at place t, extracted only when needed.

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

    def gather(self, some: slice, patients: PatientIndex) -> tuple[Tensor, Tensor]:
        """Return g and a of some patients, each one's rows end to end along T: [S, K, M * T, .]."""
        rows, (places, p, _) = patients.get_rows(some), self.size
        g = self.gradient[rows].reshape(-1, self.module.groups, p, places).transpose(-1, -2)
        a = _extract_patches(self.module, self.image[rows])
        return patients.concatenate_rows(g, some), patients.concatenate_rows(a, some)

    def instantiate(self, patients: PatientIndex) -> Tensor:
        """Return the patients' gradients [G, P * kernel * C / groups], channels last."""
        return _instantiate_gradients(self, patients) if self.module.groups == 1 else self._convolve(patients)

    def _convolve(self, patients: PatientIndex) -> Tensor:
        """Return the patients' gradients of a grouped convolution.

        The library's backward pass gets every row as groups of its own and costs what it costs without privacy. Patches
        of few channels would be copied nearly value by value, which took half of a step with depthwise layers.
        """
        grads = self.image.new_zeros((patients.count, self.module.weight.numel()))
        values = self.image[0].numel() + self.gradient[0].numel() + grads.shape[1]
        step = max(1, _count_values_at_a_time(self.image) // values)
        pieces = (torch.split(x, step) for x in (self.image, self.gradient, patients.patient_of_row))
        for image, gradient, patient_of_row in zip(*pieces, strict=True):
            grads.index_add_(0, patient_of_row, _compute_row_gradients(self.module, image, gradient))
        return grads

    def to_parameter_layout(self, total: Tensor) -> Tensor:
        """Return a sum of instantiated gradients in the layout of the weight [P, C, kernel]."""
        outputs, inputs, *kernel = self.module.weight.shape
        return total.view(outputs, *kernel, inputs).permute(0, 3, 1, 2)

    def weighted_sum(self, row_factors: Tensor) -> Tensor:
        """Return sum_b row_factors[b] * gradient_b, for factors [B]; a gradient that is not finite adds zero."""
        module, (places, p, _) = self.module, self.size
        # With patches smaller than the weight, one product is two to three times faster than the library's backward,
        # which rearranges the weight (measured on a CPU).
        if len(self.image) * places <= p:
            return self._product(row_factors)
        _, weight, _ = torch.ops.aten.convolution_backward(
            zero_non_finite(self.gradient * row_factors[:, None, None, None]),
            zero_non_finite(self.image),
            module.weight,
            None,
            module.stride,
            _get_padding(module),
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
        weighted = zero_non_finite(self.gradient * row_factors[:, None, None, None])
        g = weighted.reshape(len(self.gradient), blocks, p, -1)
        a = _extract_patches(self.module, zero_non_finite(self.image))
        summed = g.permute(1, 2, 0, 3).flatten(2) @ a.transpose(0, 1).flatten(1, 2)
        return self.to_parameter_layout(summed.reshape(blocks * p * d))


@dataclass(frozen=True)
class EmbeddingGradient:
    """The gradient of an embedding table.

    Attributes:
        ids: [B, T].
        g: [B, T, d]; zero at the padding index.
        entries: rows of the table.

    """

    ids: Tensor
    g: Tensor
    entries: int

    def instantiate(self, patients: PatientIndex) -> Tensor:
        """Return the patients' gradients [G, entries * d]."""
        table = self.g.new_zeros((patients.count * self.entries, self.g.shape[-1]))
        keys = patients.patient_of_row[:, None] * self.entries + self.ids
        return table.index_add_(0, keys.flatten(), self.g.flatten(0, 1)).view(patients.count, -1)

    def weighted_sum(self, row_factors: Tensor) -> Tensor:
        """Return sum_b row_factors[b] * gradient_b, for factors [B]; a gradient that is not finite adds zero."""
        table = self.g.new_zeros((self.entries, self.g.shape[-1]))
        weighted = zero_non_finite(self.g * row_factors[:, None, None])
        return table.index_add_(0, self.ids.flatten(), weighted.flatten(0, 1))


GradientPart = RowGradients | OuterProduct | ConvOuterProduct | EmbeddingGradient


def split_patients(parts: list[OuterProduct | ConvOuterProduct], patients: PatientIndex) -> list[slice]:
    """Split the patients so that the image patches extracted at a time stay few."""
    places = sum(part.size[0] for part in parts if isinstance(part, ConvOuterProduct))
    values = places * parts[0].size[2] * patients.max_rows
    step = max(1, _count_values_at_a_time(patients.patient_of_row) // values) if values else patients.count
    return [slice(start, start + step) for start in range(0, patients.count, step)]


def _count_values_at_a_time(x: Tensor) -> int:
    return GPU_VALUES if x.is_cuda else CPU_VALUES


def _instantiate_gradients(part: OuterProduct | ConvOuterProduct, patients: PatientIndex) -> Tensor:
    """Return the patients' gradients [G, p * d] of a part with one block."""
    _, p, d = part.size
    g = part.gradient if isinstance(part, ConvOuterProduct) else part.g
    grads = g.new_empty((patients.count, 1, p, d))
    for some in split_patients([part], patients):
        g, a = part.gather(some, patients)
        torch.matmul(g.transpose(-1, -2), a, out=grads[some])
    return grads.flatten(1)


def _compute_row_gradients(module: nn.Conv2d, image: Tensor, gradient: Tensor) -> Tensor:
    """Return each row's gradient [B, P * kernel * C / groups], channels last."""
    rows, (outputs, inputs, *kernel) = len(image), module.weight.shape
    with disable_tf32():
        weight: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            image.reshape(1, -1, *image.shape[2:]),
            (rows * outputs, inputs, *kernel),
            gradient.reshape(1, -1, *gradient.shape[2:]),
            module.stride,
            _get_padding(module),
            module.dilation,
            rows * module.groups,
        )
    return weight.permute(0, 2, 3, 1).reshape(rows, -1)


def _extract_patches(module: nn.Conv2d, image: Tensor) -> Tensor:
    """Return the patches under the kernel [B, K, T, kernel * C / K], channels last: its rows are then long copies."""
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    (ph, pw), (b, c, h, w) = _get_padding(module), image.shape
    padded = image.new_zeros((b, h + 2 * ph, w + 2 * pw, c))
    padded[:, ph : ph + h, pw : pw + w] = image.permute(0, 2, 3, 1)
    out_h, out_w = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    row, line, place, _ = padded.stride()
    shape = (b, out_h, out_w, kh, kw, module.groups, c // module.groups)
    strides = (row, sh * line, sw * place, dh * line, dw * place, c // module.groups, 1)
    windows = padded.as_strided(shape, strides).permute(0, 5, 1, 2, 3, 4, 6)
    return windows.reshape(b, module.groups, out_h * out_w, -1)


def _get_padding(module: nn.Conv2d) -> tuple[int, int]:
    if module.padding == "same":
        (dh, dw), (kh, kw) = module.dilation, module.kernel_size
        return dh * (kh - 1) // 2, dw * (kw - 1) // 2
    return (0, 0) if isinstance(module.padding, str) else (module.padding[0], module.padding[1])
