"""How a training step computes: in bf16 or float32, with channels last or first, compiled or not, with less memory.

Mixed precision: Micikevicius et al., "Mixed precision training", ICLR 2018; bf16 needs no scaling of the loss
(Kalamkar et al., "A study of bfloat16 for deep learning training", 2019). Only the forward pass and its gradients of
activations are in bf16. Weights, losses, norms, clipping, noise and optimizers stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from fedhealth.config.schema import Precision, TrainingConfig
from fedhealth.data.examples import Batch
from fedhealth.errors import ModelError
from fedhealth.utils.activation_checkpointing import checkpoint_blocks, find_blocks
from fedhealth.utils.fault_text import get_first_line


def is_bf16(training: TrainingConfig, device: torch.device, is_private: bool = False) -> bool:
    """Return whether the forward pass computes in bf16.

    Args:
        training: its `precision`.
        device: of the model.
        is_private: whether patients' gradients are clipped; then `auto` is float32 (docs/decisions/models.md).

    """
    if training.precision is Precision.auto:
        return device.type == "cuda" and not is_private and torch.cuda.is_bf16_supported(including_emulation=False)
    return training.precision is Precision.bf16


def autocast_forward(
    training: TrainingConfig | None, device: torch.device, is_private: bool = False
) -> AbstractContextManager[object]:
    """Return the context of a forward pass; the backward pass follows outside of it. None computes in float32."""
    if training is None or not is_bf16(training, device, is_private):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def use_channels_last(model: nn.Module, training: TrainingConfig) -> Iterator[None]:
    """Keep the weights of convolutions channels last during training, if configured; null: on a GPU."""
    device = next(model.parameters()).device
    if not (device.type == "cuda" if training.channels_last is None else training.channels_last):
        yield
        return
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)


@contextmanager
def checkpoint_activations(model: nn.Module, training: TrainingConfig) -> Iterator[None]:
    """Checkpoint the activations of the model's blocks during training, if configured.

    Raises:
        ModelError: the model has no blocks.

    """
    if not training.activation_checkpointing:
        yield
        return
    blocks = find_blocks(model)
    if not blocks:
        raise ModelError(
            "training.activation_checkpointing=true: no encoder has blocks, such as residual blocks or transformer "
            "layers, so no memory would be saved.",
            "Set training.activation_checkpointing=false.",
        )
    with checkpoint_blocks(blocks):
        yield


def compile_model(model: nn.Module, training: TrainingConfig) -> Callable[[Batch], Tensor]:
    """Return the model, compiled at its first call if configured.

    Raises:
        ModelError: from the first call, where the machine has no compiler or the model cannot be compiled.

    """
    if not training.compile:
        return model
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    compiled = torch.compile(model)

    def run_forward(batch: Batch) -> Tensor:
        try:
            return compiled(batch)
        except TorchDynamoException as fault:
            reason = get_first_line(fault)
            raise ModelError(
                f"training.compile=true: this machine cannot compile the model ({reason}).",
                "Set training.compile=false, or install a C++ compiler.",
            ) from fault

    return run_forward
