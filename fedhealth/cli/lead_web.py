"""Implementation of `fedhealth lead web`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fedhealth.cli.prompts import print_lines
from fedhealth.lead.home import LeadHome


def run_lead_web(port: int, folder: Path | None) -> None:
    """Serve the page until stopped; the token to sign in is in a file, not in this output.

    Raises:
        ConfigError: there is no consortium, or the port is in use.

    """
    from fedhealth.lead.web.serve import get_token_path, serve_lead_pages
    from fedhealth.web.serve import LOOPBACK

    home = LeadHome.find(folder)
    print_lines(Console(), f"http://{LOOPBACK}:{port}/", f"Sign in with the token of {get_token_path(home)}.")
    serve_lead_pages(home, port)
