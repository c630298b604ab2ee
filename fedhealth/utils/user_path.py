"""Paths that begin with `~`."""

from __future__ import annotations

from pathlib import Path

from fedhealth.errors import ConfigError


def expand_user(path: str | Path) -> Path:
    """Replace a leading `~` by the user's home folder.

    Raises:
        ConfigError: the user has no home folder, as in a container that runs under an unknown user id.

    """
    try:
        return Path(path).expanduser()
    except RuntimeError as fault:
        raise ConfigError(
            f"{path} cannot be found: this user has no home folder.", "Set HOME, or write the whole path."
        ) from fault
