"""What every modality's encoder has in common: a width, an identity, and which part of it is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import nn

from fedhealth.errors import ModelError
from fedhealth.models.lora import Lora, adapt

Train = str | Sequence[str]


def freeze(module: nn.Module, train: Train, owner: str, lora: Lora | None = None) -> None:
    """Let only a part of `module` be trained, or adapters in it.

    Args:
        module: a pretrained or fresh encoder.
        train: `all`, `none`, or name prefixes of the parameters to train, such as `["features.18"]`.
        owner: the modality's name, for the message.
        lora: adapters to add; the module itself is then frozen.

    Raises:
        ModelError: a prefix that matches no parameter, or adapters in an encoder that is itself trained.

    """
    if lora:
        if train != "none":
            raise ModelError(f"model.{owner}: adapters are for a frozen encoder.", f"Set model.{owner}.train=none.")
        adapt(module, lora, owner)
        return
    if isinstance(train, str) and train not in ("all", "none"):
        train = [train]
    names = [name for name, _ in module.named_parameters()]
    if not isinstance(train, str):
        for prefix in train:
            if not any(_under(name, prefix) for name in names):
                tops = ", ".join(sorted({name.rsplit(".", 1)[0] for name in names})[:20])
                raise ModelError(
                    f"model.{owner}.train: no parameter lies under {prefix!r}.",
                    f"Use all, none, or modules such as: {tops}.",
                )
    for name, parameter in module.named_parameters():
        chosen = train == "all" if isinstance(train, str) else any(_under(name, prefix) for prefix in train)
        parameter.requires_grad_(chosen)


def is_frozen(module: nn.Module) -> bool:
    """Return whether nothing in `module` is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def identity(module: nn.Module) -> str:
    """Return the SHA-256 of a module's type, settings and weights: equal digests give equal features."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
