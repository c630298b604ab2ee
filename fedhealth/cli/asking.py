"""What the commands of trust share: a file that somebody sent, and a question to a person."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from fedhealth.errors import ConfigError, TrustError

_LIMIT = 2**22  # bytes


def content_of(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        ConfigError: there is no such file, or a far larger one than any of ours.

    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file.", "Give the file as it was sent.")
    with path.open("rb") as file:
        content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise ConfigError(f"{path} is larger than {_LIMIT} bytes.", "Give the file as it was sent.")
    return content


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: no markup, no line breaks within a fingerprint."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def agree(question: str, told: str | None = None) -> None:
    """Ask a person, unless the fingerprint was told with the command.

    Raises:
        TrustError: the answer is no, or there is nobody to ask.

    """
    if told is not None:
        return
    try:
        agreed = typer.confirm(question)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise TrustError("Nobody agreed.", "Nothing was changed.")
