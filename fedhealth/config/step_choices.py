"""What a configuration chooses for the computation of a training step: clipping, compiling, checkpoints, bf16."""

from __future__ import annotations

from typing import Any

from fedhealth.config.capabilities import get_capability

Plain = dict[str, Any]


def splits_private_batches(plain: Plain) -> bool:
    """Return whether private training would have its batches split by two settings."""
    return clips_gradients(plain) and plain["training"].get("micro_batch_size") is not None


def clips_gradients(plain: Plain) -> bool:
    """Return whether training clips patients' gradients; `privacy=client` trains without noise."""
    unit = get_capability(plain["privacy"], "unit", default="none")
    return unit != "client" and get_capability(plain["privacy"], "is_private", default=False)


def compiles_private_steps(plain: Plain) -> bool:
    """Return whether a step that clips gradients would be compiled."""
    return clips_gradients(plain) and bool(plain["training"].get("compile"))


def checkpoints_activations(plain: Plain) -> bool:
    """Return whether activations are computed again in the backward pass."""
    return bool(plain["training"].get("activation_checkpointing"))


def compiles_checkpoints(plain: Plain) -> bool:
    """Return whether a step with checkpoints would be compiled."""
    return checkpoints_activations(plain) and bool(plain["training"].get("compile"))


def checkpoints_for_opacus(plain: Plain) -> bool:
    """Return whether Opacus would clip gradients of checkpointed blocks."""
    return checkpoints_activations(plain) and clips_gradients(plain) and plain["privacy"].get("engine") == "opacus"


def checkpoints_in_private_bf16(plain: Plain) -> bool:
    """Return whether gradients of checkpointed blocks would be clipped in bf16."""
    is_bf16 = plain["training"].get("precision") == "bf16"
    return checkpoints_activations(plain) and clips_gradients(plain) and is_bf16


def sends_gradients(plain: Plain) -> bool:
    """Return whether a site sends the gradient of one step, and the lead has the optimizer."""
    return bool(plain["training"].get("sends") == "gradient")
