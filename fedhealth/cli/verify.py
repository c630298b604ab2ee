"""Implementation of `fedhealth verify`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fedhealth.cli.prompts import print_lines, read_small_file
from fedhealth.errors import ConfigError
from fedhealth.utils.minisign import verify_file


def run_verify(path: Path, key: Path) -> None:
    """Verify the detached signature of a file; print what was signed.

    Raises:
        ConfigError: one of the files is missing.
        TrustError: the signature is not valid.

    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file.", "Give the archive of the release.")
    signature, public = (
        read_small_file(each).decode("utf-8", "replace") for each in (path.with_name(f"{path.name}.minisig"), key)
    )
    print_lines(Console(highlight=False), f"The signature is valid: {verify_file(path, signature, public)}")
