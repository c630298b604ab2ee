"""Serve the lead's page."""

from __future__ import annotations

from pathlib import Path

from fedhealth.lead.home import LeadHome
from fedhealth.lead.web.pages import build_lead_app
from fedhealth.web.serve import TOKENS_FILE, serve_app
from fedhealth.web.sessions import SessionStore, make_tokens


def get_token_path(home: LeadHome) -> Path:
    """Return the file of the token with which one signs in."""
    return home.web_folder / TOKENS_FILE


def serve_lead_pages(home: LeadHome, port: int) -> None:
    """Serve the page until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: there is no consortium at `home`, or the port is in use.
        StartRefusedError: the page of this consortium is served already.

    """
    tokens = make_tokens(is_read_only=True)
    serve_app(build_lead_app(home, SessionStore("lead", tokens), port), port, home.web_folder, tokens)
