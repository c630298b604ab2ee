"""The door of the page: every request is checked before any of its code runs, every answer gets the same headers.

Other users of this machine can connect to a loopback port, and so can every page in the same browser. A page of another
origin is refused by its Origin and Sec-Fetch-Site headers, a name that was rebound to 127.0.0.1 by the Host header.
Paths are plain words, there are no queries, and a form is small and comes at once.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedhealth.web.refusal_log import PageRefusal, RefusalLog

FORM = "fedhealth.form"
"""Key of a request's form in its scope: text by field."""
MOST_BYTES, BODY_SECONDS = 16_384, 5.0
_MOST_FIELDS, _MOST_HEADERS, _MOST_HEADER_BYTES = 16, 64, 16_384
_PATH = re.compile(rb"/|(/[A-Za-z0-9._-]{1,128}){1,3}")
_FORM_TYPE = b"application/x-www-form-urlencoded"
_FORBIDDEN = (b"transfer-encoding", b"upgrade", b"x-http-method-override", b"x-http-method", b"x-method-override")
_ONCE = (b"host", b"origin", b"content-length", b"content-type", b"cookie", b"sec-fetch-site")
_STATUS = {
    PageRefusal.host: 421,
    PageRefusal.method: 405,
    PageRefusal.origin: 403,
    PageRefusal.kind: 415,
    PageRefusal.length: 411,
    PageRefusal.size: 413,
    PageRefusal.slow: 408,
}
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer a browser would send its own forms with Origin: null
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
    (b"connection", b"close"),
)


class RequestGuard:
    """Pass on only plain requests of the page itself, with their form; the rest is refused and logged.

    Args:
        app: the page.
        port: that it is served on.
        refusals: where refusals are logged.

    """

    def __init__(self, app: ASGIApp, port: int, refusals: RefusalLog) -> None:
        self._app, self._refusals = app, refusals
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        fault = find_fault(scope, self._hosts)
        if fault is None and scope["method"] == "POST":
            try:
                scope[FORM] = await asyncio.wait_for(_read_form(receive), BODY_SECONDS)
            except TimeoutError:
                fault = PageRefusal.slow
            except ValueError:
                fault = PageRefusal.kind
        if fault is not None:
            self._refusals.write_refusal(fault)
            await _send_refusal(send, fault)
            return
        await self._app(scope, receive, _add_headers(send))


def find_fault(scope: Scope, hosts: set[bytes]) -> PageRefusal | None:
    """Return what is wrong with a request's head; None if it is plain."""
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(pairs)
    names = [name for name, _ in pairs]
    if headers.get(b"host") not in hosts or names.count(b"host") != 1:
        return PageRefusal.host
    if scope["method"] not in ("GET", "HEAD", "POST"):
        return PageRefusal.method
    if not _PATH.fullmatch(scope["raw_path"]) or b".." in scope["raw_path"]:
        return PageRefusal.path
    if scope["query_string"]:
        return PageRefusal.query
    size = sum(len(name) + len(value) for name, value in pairs)
    if len(pairs) > _MOST_HEADERS or size > _MOST_HEADER_BYTES or any(names.count(name) > 1 for name in _ONCE):
        return PageRefusal.headers
    if any(name in headers for name in _FORBIDDEN):
        return PageRefusal.headers
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        return PageRefusal.origin
    return _find_form_fault(scope["method"], headers)


def _find_form_fault(method: str, headers: dict[bytes, bytes]) -> PageRefusal | None:
    length = headers.get(b"content-length")
    if method != "POST":
        return PageRefusal.headers if length not in (None, b"0") else None
    if headers.get(b"origin") != b"http://" + headers[b"host"]:
        return PageRefusal.origin
    if headers.get(b"content-type") != _FORM_TYPE:
        return PageRefusal.kind
    if length is None or not length.isdigit():
        return PageRefusal.length
    return PageRefusal.size if int(length) > MOST_BYTES else None


async def _read_form(receive: Receive) -> dict[str, str]:
    """Return the fields of a form; the server has checked that it is as long as it says.

    Raises:
        ValueError: it is no form, or a field is there twice.

    """
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    pairs = parse_qsl(
        body.decode("ascii"),
        keep_blank_values=True,
        strict_parsing=bool(body),
        errors="strict",
        max_num_fields=_MOST_FIELDS,
    )
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a field is there twice")
    return dict(pairs)


def _add_headers(send: Send) -> Send:
    """Add the headers of every answer; an answer may bring a content policy of its own."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = dict(message["headers"])
            message["headers"] = [*message["headers"], *(each for each in HEADERS if each[0] not in own)]
        await send(message)

    return send_with_headers


async def _send_refusal(send: Send, fault: PageRefusal) -> None:
    """Answer with a status and the reason; nothing of the request is repeated."""
    body = f"Refused: {fault}.\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": _STATUS.get(fault, 400), "headers": headers})
    await send({"type": "http.response.body", "body": body})
