"""The book-keeping engine: per-patient clipping with one backward pass (Bu et al., ICML 2023).

Every trainable layer's input and the gradient of its output are recorded during one ordinary forward and backward, in
which the trainable weights themselves take no gradient. From the records come the patients' norms, from the norms the
clip factors, and from both, directly, the clipped sum; no per-sample gradient of a large layer is ever stored.

The records are made by hooks on tensors, not on modules, so in-place operations after a layer (torchvision's ReLUs) are
fine; they belong to one call, so nothing stale can be left from an earlier step.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import (
    Batch,
    Clipped,
    LossFn,
    Patients,
    add_to,
    check_rows_apart,
    per_row,
    select,
    trainable,
)
from fedhealth.privacy.engines.book_keeping_layers import Part, Rule, Settled, rule_for, settle
from fedhealth.privacy.engines.clipping import Clipping


class BookKeeping:
    """Gradient engine with one backward pass; see `fedhealth.privacy.engines.base.GradientEngine`.

    Every layer with trainable parameters must be called with the rows of the whole batch as the first dimension.

    Args:
        model: Linear, Conv1d/2d, Embedding, LayerNorm, RMSNorm and GroupNorm may be trainable; also reused or tied.
        loss_fn: (model, batch) -> losses [B] or [B, ...].
        clipping: the rule that bounds a patient's contribution.

    Raises:
        PrivacyError: naming the layer, when a trainable one has no rule or mixes rows.

    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, clipping: Clipping) -> None:
        check_rows_apart(model)
        self._model, self._loss_fn, self._clipping = model, loss_fn, clipping
        self._layers = _layers(model)
        self._parameters = trainable(model)
        groups = clipping.assign(self._parameters)
        self._group_of = dict(zip(self._parameters.values(), groups, strict=True))

    def accumulate(self, batch: Batch, patients: Sequence[int]) -> Clipped:
        """Add the batch's clipped sum to `p.summed_grad`; an empty batch adds nothing and skips the model."""
        self._check_still_valid()
        device = next(iter(self._parameters.values())).device
        if not len(patients):
            return Clipped(torch.zeros(0), torch.zeros(0))
        book = _Book(Patients(patients, device))
        with self._recorded(book):
            losses = per_row(self._loss_fn(self._model, batch), len(patients))
            book.forward_done = True
            if losses.requires_grad:
                losses.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            book.settle_rest()
            squared = self._squared_norms(book)
            finite = squared.isfinite().all(1) & book.patients.add_up(losses).isfinite()
            if bool(finite.all()):
                self._release(book, self._clipping.factors(squared))
                return Clipped(losses.detach(), squared.sum(1).sqrt())
        return self._without(batch, patients, finite[book.patients.of_row].tolist())

    def _check_still_valid(self) -> None:
        if trainable(self._model).keys() != self._parameters.keys():
            raise PrivacyError(
                "the set of trainable parameters changed after the engine was made",
                "Freeze and unfreeze first, then build the engine.",
            )
        check_rows_apart(self._model)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise PrivacyError("autocast is on", "Train in float32: norms in half precision break the bound.")

    @contextmanager
    def _recorded(self, book: "_Book") -> Iterator[None]:
        with ExitStack() as stack:
            for name, module, rule in self._layers:
                if isinstance(module, nn.Embedding):
                    pre = module.register_forward_pre_hook(partial(expand_ids, len(book.patients.of_row)))
                    stack.callback(pre.remove)
                hook = module.register_forward_hook(partial(book.on_forward, name, rule))
                stack.callback(hook.remove)
            for parameter in self._parameters.values():
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)
            book.trainable = set(self._parameters.values())
            yield

    def _squared_norms(self, book: "_Book") -> Tensor:
        reference = next(iter(self._parameters.values()))
        total = reference.new_zeros((book.patients.count, self._clipping.groups))
        for parameter, (squared, _) in book.settled.items():
            total[:, self._group_of[parameter]] += squared
        return total

    def _release(self, book: "_Book", factors: Tensor) -> None:
        for parameter in list(book.settled):
            _, forms = book.settled.pop(parameter)
            column = factors[:, self._group_of[parameter]]
            for form in forms:
                add_to(parameter, form.weighted_sum(column))

    def _without(self, batch: Batch, patients: Sequence[int], keep: list[bool]) -> Clipped:
        """Start again without the patients whose gradient is not finite: zero times infinity is not zero."""
        rows = [row for row, good in enumerate(keep) if good]
        lost = len({p for p, good in zip(patients, keep, strict=True) if not good})
        rest = self.accumulate(select(batch, rows, len(patients)), [patients[row] for row in rows])
        return Clipped(rest.losses, rest.norms, rest.dropped + lost)


class _Book:
    """The records of one forward and backward pass."""

    def __init__(self, patients: Patients) -> None:
        self.patients = patients
        self.trainable: set[nn.Parameter] = set()
        self.settled: dict[nn.Parameter, tuple[Tensor, list[Settled]]] = {}
        self.forward_done = False
        self._uses: dict[nn.Parameter, int] = {}
        self._parts: dict[nn.Parameter, list[Part]] = {}

    def on_forward(self, name: str, rule: Rule, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        """Note the layer's input and ask for the gradient of its output."""
        if not torch.is_grad_enabled():
            return None
        if self.forward_done:
            raise PrivacyError(
                f"layer {name} ran again during backward", "Switch activation checkpointing off under privacy."
            )
        if len(args) != 1:
            raise PrivacyError(f"layer {name} was not called with one positional input", "Call it as layer(x).")
        owned = {n: p for n, p in module.named_parameters(recurse=False) if p in self.trainable}
        for parameter in owned.values():
            self._uses[parameter] = self._uses.get(parameter, 0) + 1
        given = args[0].detach()
        anchored = None if out.requires_grad else _anchor(out)
        watched = out if anchored is None else anchored
        watched.register_hook(  # type: ignore[no-untyped-call]
            partial(self._on_gradient, name, rule, module, owned, given, given._version)
        )
        return anchored

    def _on_gradient(
        self,
        name: str,
        rule: Rule,
        module: nn.Module,
        owned: dict[str, nn.Parameter],
        given: Tensor,
        version: int,
        gradient: Tensor,
    ) -> None:
        if given._version != version:
            raise PrivacyError(f"the input of layer {name} was changed in place", "Use the out-of-place operation.")
        rows = len(self.patients.of_row)
        if given.shape[0] != rows or gradient.shape[0] != rows:
            raise PrivacyError(
                f"layer {name} saw {given.shape[0]} rows of a batch of {rows}",
                "Call it on the whole batch, with the row as the first dimension, and mask afterwards.",
            )
        parts = rule(module, given, gradient.detach())
        for attribute, parameter in owned.items():
            self._parts.setdefault(parameter, []).append(parts[attribute])
            self._uses[parameter] -= 1
            if self._uses[parameter] == 0:
                self._settle(parameter)

    def settle_rest(self) -> None:
        """Settle the parameters some of whose uses did not reach the loss."""
        for parameter in list(self._parts):
            self._settle(parameter)

    def _settle(self, parameter: nn.Parameter) -> None:
        self.settled[parameter] = settle(self._parts.pop(parameter), self.patients)


class _Anchor(torch.autograd.Function):
    """Identity that makes a tensor part of the graph, in place, so that later in-place operations stay legal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


def _anchor(out: Tensor) -> Tensor:
    anchored: Tensor = _Anchor.apply(out.clone() if out._is_view() else out, out.new_zeros((), requires_grad=True))
    return anchored


def expand_ids(rows: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Give ids shared by all rows (BERT's positions, [1, L]) a row each, or their gradient would be one for all."""
    ids = args[0]
    return (ids.expand(rows, *ids.shape[1:]), *args[1:]) if ids.shape[0] == 1 and rows > 1 else None


def _layers(model: nn.Module) -> list[tuple[str, nn.Module, Rule]]:
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and any(p.requires_grad for p in module.parameters()):
            raise PrivacyError(
                f"layer {name} (MultiheadAttention) keeps its projections in bare parameters",
                "Use attention built from nn.Linear (transformers' models are) or freeze it.",
            )
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            found.append((name, module, rule_for(name, module)))
    if not found:
        raise PrivacyError("the model has no trainable parameters", "Unfreeze what is to be trained.")
    return found
