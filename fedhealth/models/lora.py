"""Low-rank adapters: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, by the peft library.

A frozen layer W gets a trained product B A of rank r beside it: only A and B are shared, and only they get noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from fedhealth.errors import ModelError
from fedhealth.utils.fault_text import get_first_line

_TRANSPOSED = "Conv1D"  # transformers' linear layer, whose weight is [inputs, outputs]


@dataclass(frozen=True)
class LoraSettings:
    """Settings of the adapters.

    Attributes:
        rank: r.
        alpha: B A is scaled by alpha / r.
        targets: ends of the names of linear and (ungrouped) convolutional layers, such as `query`; null finds the
            query and value projections of the encoder's attention by their usual names.

    """

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] | None = None


# What architectures call the projections of attention: the first names that all occur are taken. XLNet's attention
# multiplies by bare parameters, and ConvNeXt has none: there it is the layers of the perceptrons.
_USUAL_TARGETS = (
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_lin", "v_lin"),
    ("q_proj", "v_proj"),
    ("q", "v"),
    ("Wqkv",),
    ("c_attn",),
    ("qkv",),
    ("layer_1", "layer_2"),
    ("pwconv1", "pwconv2"),
)


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

    targets = list(lora.targets or find_targets(network, owner))
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, fan_in_fan_out=_is_transposed(network, targets)
    )
    try:
        peft.inject_adapter_in_model(settings, network)
    except (ValueError, ZeroDivisionError) as fault:
        raise ModelError(f"model.{owner}.lora: {get_first_line(fault)}", _list_layers(network)) from fault


def find_targets(network: nn.Module, owner: str) -> tuple[str, ...]:
    """Return the ends of the names of the layers that usually get adapters.

    Raises:
        ModelError: the encoder has none of them.

    """
    ends = {name.rpartition(".")[2] for name, _ in _iter_layers(network)}
    for targets in _USUAL_TARGETS:
        if ends.issuperset(targets):
            return targets
    raise ModelError(
        f"model.{owner}.lora: this encoder ({type(network).__name__}) has no attention with a usual name.",
        _list_layers(network),
    )


def _iter_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers that can have adapters; a transposed one is GPT-2's."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) or type(module).__name__ == _TRANSPOSED:
            yield name, module


def _is_transposed(network: nn.Module, targets: Sequence[str]) -> bool:
    """Return whether the weights of the targets are stored as [inputs, outputs]."""
    chosen = [module for name, module in _iter_layers(network) if name.rpartition(".")[2] in targets]
    return any(type(module).__name__ == _TRANSPOSED for module in chosen)


def _list_layers(network: nn.Module) -> str:
    ends = sorted({name.rpartition(".")[2] for name, _ in _iter_layers(network)})
    return f"Use targets among this encoder's layers: {', '.join(ends)}."
