"""A method joins the lead's half and the hospital's half: another half chosen beside it would leave nothing of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedhealth.config.compose import choices, conf_dir
from fedhealth.errors import ConfigError

_HALVES = ("personalization", "strategy/companion")
_OVERRIDE = "override /"


def check_halves(words: Sequence[str], config_dir: Path | None = None) -> None:
    """Refuse words that choose a method and replace one of its halves.

    Args:
        words: they compose.
        config_dir: a further folder of configuration files, searched after our own.

    Raises:
        ConfigError: the method would not be what it is called.

    """
    chosen = choices(words, config_dir)
    method = chosen.get("method", "")
    for group, option in _brought(method, config_dir):
        if chosen.get(group) != option:
            raise ConfigError(
                f"method={method} is {group}={option} at its half; {group}={chosen.get(group)} takes its place.",
                f"Leave {group} out, or choose another method.",
            )


def _brought(method: str, config_dir: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the halves that a method's file chooses."""
    folders = [conf_dir(), *([config_dir] if config_dir else [])]
    for path in [folder / "method" / f"{method}.yaml" for folder in folders]:
        loaded: Any = OmegaConf.load(path) if path.is_file() else {}
        for entry in loaded.get("defaults", []):
            for key, option in entry.items() if OmegaConf.is_dict(entry) else ():
                if (group := str(key).removeprefix(_OVERRIDE)) in _HALVES:
                    yield group, str(option)
