"""What an encoder is: a torch module with a `width` that turns one modality of B rows into features [B, width].

The configuration names its class (`conf/model/MODALITY/*.yaml`), so a new encoder is a module, a YAML file and a test;
see docs/add-an-encoder.md. What the model adds around it: a projection to `model.dim`, a vector for rows that lack the
modality, and the fusion. Below: functions to set the trainable part of an encoder and to compute its fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from fedhealth.errors import ModelError
from fedhealth.models.lora import LoraSettings, add_adapters
from fedhealth.utils.digest import TranscriptDigest

TrainablePart = str | Sequence[str]


class Encoder(Protocol):
    """An `nn.Module` that encodes one modality.

    What it gets as `values`: `image`: [B, C, size, size], uint8, uint16 or float in 0..255. `tabular`: float32
    [B, inputs], with columns that mark missing values; `inputs` is passed to its constructor. `text`: what its own
    `tokenize` returned, [B, length]. A row that lacks the modality is all zeros; its features are not used.

    Differential privacy needs rows that do not depend on each other (no batch normalization in training) and layers
    that a gradient engine knows (see `fedhealth.privacy.BookKeepingEngine`); a run checks both before it starts.

    Attributes:
        width: number of features.
        may_have_own_adapters: False if no part of it is a low-rank adapter; checked by methods that need to know.

    """

    width: int
    may_have_own_adapters: bool

    def forward(self, values: Tensor) -> Tensor:
        """Return the features, float32 [B, width]."""


class TokenizingEncoder(Encoder, Protocol):
    """An encoder of texts, which also turns texts into numbers.

    Attributes:
        pad: the number that fills short rows.

    """

    pad: int

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Return [len(texts), length] numbers, int64 or float32; the same texts give the same numbers everywhere."""


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
