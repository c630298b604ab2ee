"""Functions for encoders of every modality: set the trainable part, compute a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedhealth.errors import ModelError
from fedhealth.models.lora import LoraSettings, add_adapters
from fedhealth.utils.digest import TranscriptDigest

TrainablePart = str | Sequence[str]


def set_trainable(module: nn.Module, train: TrainablePart, owner: str, lora: LoraSettings | None = None) -> None:
    """Make only a part of `module` trainable, or add adapters and freeze it.

    Args:
        module: a pretrained or newly initialized encoder.
        train: `all`, `none`, or name prefixes of the parameters to train, such as `["features.18"]`.
        owner: the modality's name, for error messages.
        lora: adapters to add; the module itself is then frozen.

    Raises:
        ModelError: a prefix matches no parameter, or adapters are configured for an encoder that is trained itself.

    """
    if lora:
        if train != "none":
            raise ModelError(f"model.{owner}: adapters are for a frozen encoder.", f"Set model.{owner}.train=none.")
        add_adapters(module, lora, owner)
        return
    if isinstance(train, str) and train not in ("all", "none"):
        train = [train]
    names = [name for name, _ in module.named_parameters()]
    if not isinstance(train, str):
        for prefix in train:
            if not any(_is_under(name, prefix) for name in names):
                tops = ", ".join(sorted({name.rsplit(".", 1)[0] for name in names})[:20])
                raise ModelError(
                    f"model.{owner}.train: no parameter lies under {prefix!r}.",
                    f"Use all, none, or modules such as: {tops}.",
                )
    for name, parameter in module.named_parameters():
        chosen = train == "all" if isinstance(train, str) else any(_is_under(name, prefix) for prefix in train)
        parameter.requires_grad_(chosen)


def is_frozen(module: nn.Module) -> bool:
    """Return whether `module` has no trainable parameter."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def compute_fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's type, settings and weights: equal digests give equal features."""
    digest = TranscriptDigest(b"fedhealth module 2")
    digest.add(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.add(name.encode(), tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
