"""Shared by the commands that establish trust: read a received file, print lines, ask for confirmation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from fedhealth.errors import ConfigError, TrustError
from fedhealth.utils.readable_text import escape_invisible

_LIMIT = 2**22  # bytes


def read_small_file(path: Path) -> bytes:
    """Return the content of a file that somebody sent.

    Raises:
        ConfigError: the file does not exist, or is far larger than any such file.

    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file.", "Give the file as it was sent.")
    with path.open("rb") as file:
        content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise ConfigError(f"{path} is larger than {_LIMIT} bytes.", "Give the file as it was sent.")
    return content


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Name the file that somebody sent in a refusal of its content."""
    try:
        yield
    except TrustError as fault:
        raise TrustError(f"{path}: {fault.problem}", fault.advice) from fault


def check_target(file: Path, endings: Sequence[str]) -> None:
    """Check that a file to write has one of these endings and lies in a folder that exists.

    Raises:
        ConfigError: it has not, or does not.

    """
    if file.suffix not in endings or not file.parent.is_dir():
        named = " or ".join(endings)
        raise ConfigError(f"{file} cannot be written.", f"Name a {named} file in a folder that exists.")


def print_lines(console: Console, *lines: str) -> None:
    """Print lines without markup or breaks inside a fingerprint; characters that show nothing appear as their codes."""
    for line in lines:
        console.print(escape_invisible(line), markup=False, highlight=False, soft_wrap=True)


def require_confirmation(question: str, fingerprint: str | None = None) -> None:
    """Ask the user to confirm, unless the command was given the fingerprint.

    Raises:
        TrustError: the user does not confirm, or there is no terminal.

    """
    if fingerprint is not None:
        return
    try:
        agreed = typer.confirm(question)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise TrustError("Not confirmed.", "Nothing was changed.")
