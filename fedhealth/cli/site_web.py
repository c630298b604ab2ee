"""Implementation of `fedhealth site web` and `fedhealth site passphrase`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from fedhealth.cli.prompts import print_lines
from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.site.web.passphrase import get_passphrase_path, set_passphrase


def run_web(port: int, is_read_only: bool, folder: Path | None) -> None:
    """Serve the page until stopped; the tokens to sign in are in a file, not in this output.

    Raises:
        ConfigError: there is no site, or the port is in use.

    """
    from fedhealth.site.web.serve import get_token_path, serve_pages
    from fedhealth.web.serve import LOOPBACK

    home = SiteHome.find(folder)
    lines = [f"http://{LOOPBACK}:{port}/", f"Sign in with a token of {get_token_path(home)}."]
    if not is_read_only and not get_passphrase_path(home).is_file():
        lines.append("Nobody can decide there yet: set a passphrase with `fedhealth site passphrase`.")
    print_lines(Console(), *lines)
    serve_pages(home, port, is_read_only)


def run_passphrase(folder: Path | None) -> None:
    """Ask for a passphrase and store its hash.

    Raises:
        ConfigError: there is no site, it is too short, or there is no terminal.

    """
    home = SiteHome.find(folder)
    if not home.policy.is_file():
        raise ConfigError(f"There is no site in {home.path}.", "Run `fedhealth site init` first.")
    try:
        text = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    except typer.Abort as fault:
        raise ConfigError("No passphrase was given.", "Run this in a terminal.") from fault
    set_passphrase(home, text)
    print_lines(Console(), f"Set: {get_passphrase_path(home)} holds its scrypt hash.")
