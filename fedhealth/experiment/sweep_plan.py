"""The runs of a sweep and the privacy budget they will spend, before the first run starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from fedhealth.runs.guarantee import PrivacyGuarantee, read_guarantee

Overrides = tuple[str, ...]


def expand_sweep(
    overrides: Sequence[str], params: Mapping[str, str], loader: ConfigLoader | None = None
) -> list[Overrides]:
    """Return the overrides of every run of a grid sweep, in Hydra's order.

    Args:
        overrides: of the command, such as `seed=0,1`.
        params: `hydra.sweeper.params`; the command's overrides replace them.
        loader: lists a group's options, for `glob(*)`.

    """
    parser = OverridesParser.create(config_loader=loader)
    axes: dict[str, list[str]] = {}
    for override in parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *overrides]):
        key = override.get_key_element()
        values = override.sweep_string_iterator() if override.is_sweep_override() else [None]
        axes[key] = [str(override.input_line) if value is None else f"{key}={value}" for value in values]
    return list(product(*axes.values()))


def get_guarantee(config: DictConfig) -> PrivacyGuarantee | None:
    """Return what a run of this configuration may spend at most; None without differential privacy."""
    privacy: Any = OmegaConf.to_container(config.privacy, resolve=True)
    return read_guarantee(privacy)
