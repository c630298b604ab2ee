"""What a sweep will run, and what privacy it will spend, before its first run starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

Words = tuple[str, ...]


def planned(words: Sequence[str], params: Mapping[str, str], loader: ConfigLoader | None = None) -> list[Words]:
    """Return the override words of every run of a grid, in Hydra's order.

    Args:
        words: of the command, such as `seed=0,1`.
        params: of `hydra.sweeper.params`; a word of the command replaces one of them.
        loader: lists a group's options, for `glob(*)`.

    """
    parser = OverridesParser.create(config_loader=loader)
    axes: dict[str, list[str]] = {}
    for override in parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *words]):
        key = override.get_key_element()
        values = override.sweep_string_iterator() if override.is_sweep_override() else [None]
        axes[key] = [str(override.input_line) if value is None else f"{key}={value}" for value in values]
    return list(product(*axes.values()))


def epsilon_of(config: DictConfig) -> float | None:
    """Return the most that a run of this configuration may spend; None without differential privacy."""
    target = OmegaConf.select(config, "privacy.epsilon")
    return None if target is None else float(target)
