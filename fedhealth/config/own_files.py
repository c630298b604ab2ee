"""Find values of a user's own configuration file that another file overrides, such as that of the experiment.

Hydra composes an experiment after the options that it combines, so its values count. That is as documented, and still a
surprise for the author of the option: the run says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from fedhealth.config.warnings import ConfigWarning

_WHOLE = "# @package _global_"


def list_overridden_values(
    config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str], config_dir: Path | None
) -> list[ConfigWarning]:
    """Return a warning for each value of a user's own files that is not the run's and that no command changed.

    Args:
        config: composed.
        choices: the option of every group.
        overrides: of the command.
        config_dir: the user's own folder of configuration files; None for none.

    """
    if config_dir is None:
        return []
    given = {each.partition("=")[0].lstrip("+~") for each in overrides} - choices.keys()
    plain = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    return [
        _describe_difference(key, value, found, path, choices.get("experiment"))
        for group, option in choices.items()
        if (path := config_dir / group / f"{option}.yaml").is_file()
        for key, value in _iterate_values(*_read_values(path, group))
        if (found := _get_value(plain, key)) != value
        and not any(key == each or key.startswith(f"{each}.") for each in given)
    ]


def _describe_difference(key: str, value: object, found: object, path: Path, experiment: str | None) -> ConfigWarning:
    by = f"experiment={experiment}" if experiment else "another configuration file"
    return (
        f"{key} is {found}, not {value}",
        f"{by} is composed after {path} and overrides it. To use the value of that file, add '{key}={value}'.",
    )


def _read_values(path: Path, group: str) -> tuple[Any, str]:
    """Return the content of a file without its list of defaults, and the place in the configuration where it goes."""
    text = path.read_text("utf-8")
    content = yaml.safe_load(text)
    values = {key: value for key, value in content.items() if key != "defaults"} if isinstance(content, dict) else {}
    return values, "" if text.startswith(_WHOLE) else f"{group.replace('/', '.')}."


def _iterate_values(node: Any, place: str) -> Iterator[tuple[str, object]]:
    """Yield the key and the value of every leaf; a reference to another key has no value of its own."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _iterate_values(value, f"{place}{key}.")
        elif not (isinstance(value, str) and "${" in value):
            yield f"{place}{key}", value


def _get_value(node: Any, key: str) -> object:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node
