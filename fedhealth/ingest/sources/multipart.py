"""Take the one part of a multipart answer (RFC 2046, 5.1.1; DICOM PS3.18, 8.6.1.2): one copy, no parsing of it."""

from __future__ import annotations

from email.message import Message

_END_OF_HEAD = b"\r\n\r\n"


def extract_only_part(content: bytes, content_type: str, bare_kind: str) -> bytes:
    """Return the content of the only part.

    Args:
        content: of the answer.
        content_type: its header.
        bare_kind: the type of content that may come without an envelope.

    Raises:
        ValueError: the answer is damaged, or has several parts.

    """
    message = Message()
    message["Content-Type"] = content_type
    kind, boundary = message.get_content_type(), message.get_boundary()
    if kind == bare_kind:  # not what the standard demands, but some servers do it
        return content
    if kind != "multipart/related" or not boundary:
        raise ValueError("not multipart")
    delimiter = b"--" + boundary.encode("latin-1")
    start = content.index(_END_OF_HEAD, content.index(delimiter)) + len(_END_OF_HEAD)
    end = content.index(b"\r\n" + delimiter, start)
    if not content.startswith(b"--", end + 2 + len(delimiter)):
        raise ValueError("several parts")
    return content[start:end]
