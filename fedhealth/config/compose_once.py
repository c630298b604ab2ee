"""Compose the overrides of a job once in a process: its check, its review and its tasks need the same configuration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from omegaconf import DictConfig

from fedhealth.config.compose import compose_with_choices
from fedhealth.config.folder_digest import digest_config_folder


def compose_once(overrides: Sequence[str], config_dir: Path | None = None) -> tuple[DictConfig, dict[str, str]]:
    """Return what `compose_with_choices` returns, for reading alone: the next call returns the same objects.

    After an edit below `config_dir` it is composed again.

    Raises:
        ConfigError: as `compose_config`.

    """
    return _compose(tuple(overrides), config_dir, digest_config_folder(config_dir))


@lru_cache(maxsize=64)
def _compose(
    overrides: tuple[str, ...], config_dir: Path | None, _folder_digest: bytes
) -> tuple[DictConfig, dict[str, str]]:
    return compose_with_choices(overrides, config_dir)
