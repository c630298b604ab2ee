"""Serve the hospital's page."""

from __future__ import annotations

from pathlib import Path

from fedhealth.site.home import SiteHome
from fedhealth.site.web.pages import build_web_app
from fedhealth.web.serve import TOKENS_FILE, serve_app
from fedhealth.web.sessions import SessionStore, make_tokens


def get_token_path(home: SiteHome) -> Path:
    """Return the file of the tokens with which one signs in."""
    return home.daemon_folder / TOKENS_FILE


def serve_pages(home: SiteHome, port: int, is_read_only: bool) -> None:
    """Serve the page until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: there is no site at `home`, or the port is in use.
        StartRefusedError: the page of this site is served already.

    """
    tokens = make_tokens(is_read_only)
    serve_app(build_web_app(home, SessionStore("site", tokens), port), port, home.daemon_folder, tokens)
