"""Compose the overrides of a job once in a process: its check, its review and its tasks need the same configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from fedhealth.config.compose import compose_with_choices
from fedhealth.config.folder_digest import digest_config_folder

_MOST = 64  # configurations that are kept
_kept = dict[tuple[tuple[str, ...], Path | None, bytes], tuple[DictConfig, dict[str, str]]]()


def compose_once(overrides: Sequence[str], config_dir: Path | None = None) -> tuple[DictConfig, dict[str, str]]:
    """Return what `compose_with_choices` returns, for reading alone: the next call returns the same objects.

    After an edit below `config_dir` it is composed again.

    Raises:
        ConfigError: as `compose_config`.

    """
    key = tuple(overrides), config_dir, digest_config_folder(config_dir)
    return _kept[key] if key in _kept else _keep(key, compose_with_choices(overrides, config_dir))


def keep_composed(overrides: Sequence[str], config: DictConfig, choices: Mapping[str, str]) -> None:
    """Keep what overrides compose to without a further folder: `compose_once` returns it from now on."""
    _keep((tuple(overrides), None, digest_config_folder(None)), (config, dict(choices)))


def _keep(
    key: tuple[tuple[str, ...], Path | None, bytes], composed: tuple[DictConfig, dict[str, str]]
) -> tuple[DictConfig, dict[str, str]]:
    while len(_kept) >= _MOST:
        _kept.pop(next(iter(_kept)), None)  # the oldest
    _kept[key] = composed
    return composed
