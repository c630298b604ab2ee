"""Check that the overrides do not replace a component of the chosen method.

A method consists of a client component (`personalization`) and a server component (`strategy/server_state`). If one of
them is replaced, the run would no longer be the method that it is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedhealth.config.compose import get_conf_dir
from fedhealth.errors import ConfigError

_COMPONENT_GROUPS = ("personalization", "strategy/server_state")
_OVERRIDE = "override /"


def check_method_components(chosen: Mapping[str, str], config_dir: Path | None = None) -> None:
    """Refuse choices of a method and of another component in place of one of its own.

    Args:
        chosen: the option of every group.
        config_dir: a further folder of configuration files, searched after our own.

    Raises:
        ConfigError: a component of the method is replaced.

    """
    method = chosen.get("method", "")
    for group, option in _load_method_components(method, config_dir):
        if chosen.get(group) != option:
            raise ConfigError(
                f"method={method} needs {group}={option}; {group}={chosen.get(group)} replaces it.",
                f"Leave {group} out, or choose another method.",
            )


def _load_method_components(method: str, config_dir: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the components that a method's file chooses, as (group, option)."""
    folders = [get_conf_dir(), *([config_dir] if config_dir else [])]
    for path in [folder / "method" / f"{method}.yaml" for folder in folders]:
        loaded: Any = OmegaConf.load(path) if path.is_file() else {}
        for entry in loaded.get("defaults", []):
            for key, option in entry.items() if OmegaConf.is_dict(entry) else ():
                if (group := str(key).removeprefix(_OVERRIDE)) in _COMPONENT_GROUPS:
                    yield group, str(option)
