"""The error for an image file that cannot be used."""

from __future__ import annotations

from pathlib import Path

from fedhealth.errors import DataError


class ImageError(DataError):
    """An image file that cannot be used.

    Args:
        reason: short, without the path, so that reasons can be counted; quotes no header value except the
            transfer syntax and the image size.
        advice: what to do about it.
        path: the file, if known.

    """

    def __init__(self, reason: str, advice: str = "", path: Path | None = None) -> None:
        super().__init__(f"{path}: {reason}" if path else reason, advice)
        self.reason = reason
