"""Which classes an exported model may name: its folder may come from anywhere and must not choose what is imported.

Known are the classes of the installed model options, and those in a folder of configuration files that the person who
loads the model names, as for training. Nothing in the model's own folder adds to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fedhealth.config.compose import get_conf_dir
from fedhealth.errors import ConfigError
from fedhealth.utils.yaml_model import SAVE_AS_UTF8

_MODEL = "model"  # the group, and the key in other files, that describe a model


def list_known_targets(config_dir: Path | None = None) -> frozenset[str]:
    """Return the `_target_` values that a model may have.

    Args:
        config_dir: a further folder of configuration files, as for training; None for none.

    Raises:
        ConfigError: there is no such folder, or one of its files is not YAML.

    """
    installed = _list_installed_targets()
    return installed | _read_targets(config_dir) if config_dir else installed


@lru_cache(maxsize=1)
def _list_installed_targets() -> frozenset[str]:
    return _read_targets(get_conf_dir())


def _read_targets(folder: Path) -> frozenset[str]:
    """Return the targets of all files of the group `model`, and of the section `model` of all other files."""
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}.", "Name the folder of configuration files (--config-dir).")
    found: set[str] = set()
    for path in sorted(folder.rglob("*.yaml")):
        content = _load_yaml(path)
        is_option = path.relative_to(folder).parts[0] == _MODEL
        found |= {*iter_targets(content if is_option else content.get(_MODEL))}
    return frozenset(found)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path} cannot be read ({fault}).", SAVE_AS_UTF8) from fault
    except yaml.YAMLError as fault:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(fault).split())}.", "Correct the file.") from fault
    return content if isinstance(content, dict) else {}


def iter_targets(node: Any) -> Iterator[str]:
    """Yield the `_target_` values in nested dicts and lists."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from iter_targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from iter_targets(value)
