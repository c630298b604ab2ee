"""Low-rank adapters: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, by the peft library.

A frozen layer W gets a trained B A of rank r beside it: only A and B travel, and only they are noised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fedhealth.errors import ModelError


@dataclass(frozen=True)
class Lora:
    """Which layers get adapters.

    Attributes:
        rank: r.
        alpha: B A is scaled by alpha / r.
        targets: ends of the names of linear and (ungrouped) convolutional layers, such as `query`.

    """

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = ("query", "value")


def adapt(network: nn.Module, lora: Lora, owner: str) -> None:
    """Put adapters into `network` in place and freeze everything else; B starts at zero, A by torch's seed.

    Args:
        network: the encoder.
        lora: where and how.
        owner: the modality's name, for the message.

    Raises:
        ModelError: no layer of those names, or one that cannot have an adapter.

    """
    import peft  # a second's import, for those who use it

    settings = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    try:
        peft.inject_adapter_in_model(settings, network)
    except (ValueError, ZeroDivisionError) as fault:
        names = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        ends = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
        raise ModelError(
            f"model.{owner}.lora: {str(fault).splitlines()[0]}", f"Use targets among this encoder's layers: {ends}."
        ) from fault
