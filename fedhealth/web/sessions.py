"""Who has signed in: sessions in memory, each with one role, and one-time tokens for its forms."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

IDLE_SECONDS, LONGEST_SECONDS = 1800.0, 8 * 3600.0
_MOST_SESSIONS, _MOST_FORMS = 50, 100


class Role(StrEnum):
    """What a session may do."""

    decide = "decide"
    read = "read"


@dataclass
class Session:
    """A person who has signed in.

    Attributes:
        role: what the person may do.
        started: when.
        seen: the last request.
        forms: path of the form, by its token; each works once.

    """

    role: Role
    started: float
    seen: float
    forms: dict[str, str] = field(default_factory=dict)

    def issue_form(self, path: str) -> str:
        """Return a token with which this session may send the form of a path once."""
        token = secrets.token_urlsafe(32)
        self.forms[token] = path
        while len(self.forms) > _MOST_FORMS:
            self.forms.pop(next(iter(self.forms)))
        return token

    def use_form(self, token: str, path: str) -> bool:
        """Return whether the token is one of this session and path; it works no second time."""
        return self.forms.pop(token, "") == path


class SessionStore:
    """All sessions of a page; they end with the process.

    Args:
        side: whose page it is, `site` or `lead`: to a browser, all ports of a machine share their cookies.
        tokens: with which one signs in, by role.
        clock: seconds, never going back.

    """

    def __init__(self, side: str, tokens: Mapping[Role, str], clock: Callable[[], float] = time.monotonic) -> None:
        self.cookie = f"fedhealth_{side}"
        self._tokens, self._clock, self._lock = dict(tokens), clock, threading.Lock()
        self._sessions: dict[str, Session] = {}

    def open_session(self, token: str) -> str | None:
        """Return the cookie of a new session; None if the token is wrong."""
        roles = [role for role, known in self._tokens.items() if hmac.compare_digest(known.encode(), token.encode())]
        if not roles:
            return None
        cookie, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            while len(self._sessions) >= _MOST_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            self._sessions[_digest_cookie(cookie)] = Session(roles[0], now, now)
        return cookie

    def find_session(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if there is none, or it has ended."""
        now, key = self._clock(), _digest_cookie(cookie)
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            if now - session.seen > IDLE_SECONDS or now - session.started > LONGEST_SECONDS:
                del self._sessions[key]
                return None
            session.seen = now
            return session

    def find_role(self, cookie: str) -> str:
        """Return the role of a cookie's session; empty if there is none."""
        session = self.find_session(cookie)
        return str(session.role) if session else ""

    def close_session(self, cookie: str) -> None:
        """End the session of a cookie."""
        with self._lock:
            self._sessions.pop(_digest_cookie(cookie), None)


def read_cookie(header: str, name: str) -> str:
    """Return the value of a cookie, empty if there is none; pages of other ports may have set others."""
    pairs = (each.strip().partition("=") for each in header.split(";"))
    found = [value for key, _, value in pairs if key == name]
    return found[-1] if found else ""


def make_tokens(is_read_only: bool) -> dict[Role, str]:
    """Return fresh sign-in tokens; without one to decide if the page is for reading only."""
    roles = (Role.read,) if is_read_only else tuple(Role)
    return {role: secrets.token_urlsafe(32) for role in roles}


def _digest_cookie(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
