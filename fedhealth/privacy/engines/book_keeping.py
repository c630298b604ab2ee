"""The record-keeping engine: per-patient clipping with one backward pass (Bu et al., ICML 2023).

One ordinary forward and backward pass records every trainable layer's input and the gradient of its output; the
trainable weights themselves get no gradient. The records give the patients' norms, the norms give the clip factors, and
both together give the clipped sum. No per-sample gradient of a large layer is ever stored.

Where activations are checkpointed, memory is what is short, and the records would take as much of it as the
activations. Then a second backward pass over the same graph gives the clipped sum (ghost clipping, Li et al., ICLR
2022), and each record is freed once its norm is computed. It is summed layer by layer, as after one pass: weighting the
losses instead would let a patient whose gradient is not finite reach the sum as zero times infinity.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import (
    Batch,
    ClippedBatch,
    LossFn,
    PatientIndex,
    add_to_summed_grad,
    check_row_independence,
    compute_clip_factors,
    disable_tf32,
    get_trainable_parameters,
    reduce_row_losses,
)
from fedhealth.privacy.engines.ghost_norms import UnclippedGradient, compute_squared_norms
from fedhealth.privacy.engines.layer_gradients import GradientPart
from fedhealth.privacy.engines.layer_records import LayerRecords, expand_shared_ids
from fedhealth.privacy.engines.layer_rules import LayerRule, find_layer_rule
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.utils.activation_checkpointing import has_checkpointed_blocks


class BookKeepingEngine:
    """Gradient engine with one backward pass; see `fedhealth.privacy.engines.base.GradientEngine`.

    Every layer with trainable parameters must be called with the rows of the whole batch as the first dimension.

    Args:
        model: Linear, Conv2d, Embedding, LayerNorm, RMSNorm and GroupNorm may be trainable; also reused or tied. With
            checkpointed blocks there is a second backward pass.
        loss_fn: (model, batch) -> losses [B] or [B, ...].
        clipping: the rule that bounds a patient's contribution.

    Raises:
        PrivacyError: a trainable layer has no rule or mixes rows; the message names it.

    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, clipping: Clipping) -> None:
        check_row_independence(model)
        self._model, self._loss_fn, self._clipping = model, loss_fn, clipping
        self._layers = _find_trainable_layers(model)
        self._parameters = get_trainable_parameters(model)
        groups = clipping.assign_groups(self._parameters)
        self._group_of = dict(zip(self._parameters.values(), groups, strict=True))

    def accumulate(self, batch: Batch, patients: Sequence[int]) -> ClippedBatch:
        """Add the batch's clipped sum to `p.summed_grad`; an empty batch adds nothing and skips the model."""
        self._check_model_unchanged()
        device = next(iter(self._parameters.values())).device
        if not len(patients):
            return ClippedBatch(torch.zeros(0), torch.zeros(0))
        records = LayerRecords(PatientIndex(patients, device), set(self._parameters.values()))
        with self._record_layers(records):
            losses = reduce_row_losses(self._loss_fn(self._model, batch), len(patients))
            if has_checkpointed_blocks(self._model):
                return self._clip_in_two_passes(records, losses)
            return self._clip_in_one_pass(records, losses)

    def _clip_in_one_pass(self, records: LayerRecords, losses: Tensor) -> ClippedBatch:
        norms = _NormBook(records, keeps_gradients=True)
        records.run_backward(losses, norms.take, is_last=True)
        with torch.no_grad():
            clipped, factors = self._compute_factors(norms, losses.detach())
            with disable_tf32():
                for parameter in list(norms.gradients):
                    column = factors[:, self._group_of[parameter]]
                    for gradient in norms.gradients.pop(parameter):
                        add_to_summed_grad(parameter, gradient.weighted_sum(column))
        return clipped

    def _clip_in_two_passes(self, records: LayerRecords, losses: Tensor) -> ClippedBatch:
        with _choose_deterministic_kernels():
            norms = _NormBook(records, keeps_gradients=False)
            records.run_backward(losses, norms.take, is_last=False)
            with torch.no_grad():
                clipped, factors = self._compute_factors(norms, losses.detach())
                row_factors = factors[records.patients.patient_of_row]

            def add_part(parameter: nn.Parameter, part: GradientPart) -> None:
                with disable_tf32():
                    add_to_summed_grad(parameter, part.weighted_sum(row_factors[:, self._group_of[parameter]]))

            records.run_backward(losses, add_part, is_last=True)
        return clipped

    def _check_model_unchanged(self) -> None:
        if get_trainable_parameters(self._model).keys() != self._parameters.keys():
            raise PrivacyError(
                "the set of trainable parameters changed after the engine was made",
                "Freeze and unfreeze first, then build the engine.",
            )
        check_row_independence(self._model)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise PrivacyError("autocast is on", "Switch it on inside the loss, for the forward pass only.")

    @contextmanager
    def _record_layers(self, records: LayerRecords) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module, rule in self._layers:
                if isinstance(module, nn.Embedding):
                    pre = module.register_forward_pre_hook(
                        partial(expand_shared_ids, len(records.patients.patient_of_row))
                    )
                    stack.callback(pre.remove)
                hook = module.register_forward_hook(partial(records.on_forward, name, rule))
                stack.callback(hook.remove)
            for parameter in self._parameters.values():
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)
            yield

    def _compute_factors(self, norms: "_NormBook", losses: Tensor) -> tuple[ClippedBatch, Tensor]:
        """Return losses and norms, and the clip factors [G, K]."""
        norms.finish()
        reference = next(iter(self._parameters.values()))
        squared = reference.new_zeros((norms.patients.count, self._clipping.group_count))
        for parameter, each in norms.squared.items():
            squared[:, self._group_of[parameter]] += each
        factors, total = compute_clip_factors(self._clipping, squared, norms.patients.sum_over_rows(losses))
        return ClippedBatch(losses, total), factors


class _NormBook:
    """The patients' norms for each parameter, computed when the last part of its gradient is known.

    Args:
        records: of the forward pass.
        keeps_gradients: whether the gradients are kept for the clipped sum, each in its cheapest form.

    Attributes:
        squared: the squared norms [G].
        gradients: of the patients; empty if none is kept.

    """

    def __init__(self, records: LayerRecords, keeps_gradients: bool) -> None:
        self.patients, self._missing, self._keeps = records.patients, dict(records.uses), keeps_gradients
        self.squared: dict[nn.Parameter, Tensor] = {}
        self.gradients: dict[nn.Parameter, list[UnclippedGradient]] = {}
        self._parts: dict[nn.Parameter, list[GradientPart]] = {}

    def take(self, parameter: nn.Parameter, part: GradientPart) -> None:
        """Add a part of a parameter's gradient."""
        self._parts.setdefault(parameter, []).append(part)
        self._missing[parameter] -= 1
        if self._missing[parameter] == 0:
            self._finish(parameter)

    def finish(self) -> None:
        """Compute the norms of parameters that have a use which did not reach the loss."""
        for parameter in list(self._parts):
            self._finish(parameter)

    def _finish(self, parameter: nn.Parameter) -> None:
        self.squared[parameter], gradients = compute_squared_norms(self._parts.pop(parameter), self.patients)
        if self._keeps:
            self.gradients[parameter] = gradients


@contextmanager
def _choose_deterministic_kernels() -> Iterator[None]:
    """Let both backward passes give the same bits on a GPU: the norm must be that of the gradient that is summed."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=True, allow_tf32=cudnn.allow_tf32):
        yield


def _find_trainable_layers(model: nn.Module) -> list[tuple[str, nn.Module, LayerRule]]:
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and any(p.requires_grad for p in module.parameters()):
            raise PrivacyError(
                f"layer {name} (MultiheadAttention) keeps its projections in bare parameters",
                "Use attention built from nn.Linear (transformers' models are) or freeze it.",
            )
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            found.append((name, module, find_layer_rule(name, module)))
    if not found:
        raise PrivacyError("the model has no trainable parameters", "Unfreeze the layers to train.")
    return found
