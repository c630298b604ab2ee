"""Low-rank adapters: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, by the peft library.

A frozen layer W gets a trained product B A of rank r beside it: only A and B are shared, and only they get noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fedhealth.errors import ModelError


@dataclass(frozen=True)
class LoraSettings:
    """Settings of the adapters.

    Attributes:
        rank: r.
        alpha: B A is scaled by alpha / r.
        targets: ends of the names of linear and (ungrouped) convolutional layers, such as `query`.

    """

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = ("query", "value")


def add_adapters(network: nn.Module, lora: LoraSettings, owner: str) -> None:
    """Add adapters to `network` in place and freeze all other parameters; B starts at zero, A from torch's seed.

    Args:
        network: the encoder.
        lora: the settings.
        owner: the modality's name, for error messages.

    Raises:
        ModelError: no layer has one of those names, or a layer cannot have an adapter.

    """
    import peft  # takes a second to import: only on use

    settings = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    try:
        peft.inject_adapter_in_model(settings, network)
    except (ValueError, ZeroDivisionError) as fault:
        names = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        ends = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
        raise ModelError(
            f"model.{owner}.lora: {str(fault).splitlines()[0]}", f"Use targets among this encoder's layers: {ends}."
        ) from fault
