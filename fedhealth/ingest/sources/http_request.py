"""Ask a hospital's server, and explain what went wrong; nothing of an answer's content is in a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fedhealth.errors import DataError
from fedhealth.ingest.sources.access import CONNECT_SECONDS, ServerAccess

if TYPE_CHECKING:
    from requests import Response, Session


def request_json(session: Session, url: str, access: ServerAccess, **options: Any) -> Any:
    """Return the JSON that a server answers.

    Raises:
        DataError: it does not answer, or with something else.

    """
    answer = send_request(session, "GET", url, access, **options)
    try:
        return answer.json()
    except ValueError:
        raise DataError(f"{describe_server(url)}: the answer is not JSON.", "Check the server's address.") from None


def send_request(session: Session, method: str, url: str, access: ServerAccess, **options: Any) -> Response:
    """Return a server's answer; its content is in no message, because it may be about patients.

    Raises:
        DataError: it does not answer, or refuses.

    """
    import requests

    try:
        answer = session.request(method, url, timeout=(CONNECT_SECONDS, access.seconds), **options)
    except requests.RequestException as fault:
        raise explain_failure(url, fault) from None
    if answer.status_code >= 300:
        raise explain_status(url, answer.status_code)
    return answer


def read_content(session: Session, url: str, access: ServerAccess, most: int, **options: Any) -> tuple[str, bytes]:
    """Return the type and the content of a server's answer, which must not be compressed: it is read at once.

    Args:
        session: of the server.
        url: of the content.
        access: how the server is reached.
        most: bytes.
        options: of the request.

    Raises:
        DataError: it does not answer, refuses, breaks off, or sends more than `most` bytes.

    """
    from urllib3.exceptions import HTTPError

    with send_request(session, "GET", url, access, stream=True, **options) as answer:
        try:
            content: bytes = answer.raw.read(most + 1, decode_content=False)
            content += answer.raw.read(1, decode_content=False)  # raises if the answer broke off
        except HTTPError as fault:
            raise explain_failure(url, fault) from None
    if len(content) > most:
        raise DataError(f"{describe_server(url)} sends more than {most >> 20} MiB.", "Export smaller files.")
    return answer.headers.get("Content-Type", ""), content


def explain_failure(url: str, fault: Exception) -> DataError:
    """Return an error for a request without an answer."""
    kind = type(fault).__name__
    advice = {
        "SSLError": "Check access.ca: the certificate is not that of a trusted authority, or for another name.",
        "TooManyRedirects": "The server redirects: write its final address.",
    }
    return DataError(
        f"{describe_server(url)} cannot be reached ({kind}).",
        advice.get(kind, "Check its address, the network and access; the same command goes on from here."),
    )


def explain_status(url: str, status: int) -> DataError:
    """Return an error for an answer that is a refusal."""
    advice = {
        401: "Check the credentials in access.",
        403: "The account may not read this; ask the server's administrator.",
        404: "Check the server's address.",
    }
    return DataError(
        f"{describe_server(url)} answers with status {status}.",
        advice.get(status, "Try again later; the same command goes on from here."),
    )


def describe_server(url: str) -> str:
    """Return an address without its query, which may name patients."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
