"""Times, as people read them."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def format_time(seconds: float) -> str:
    """Return `2026-01-31 09:30:00 UTC`; seconds since 1970, which may come from a damaged file or another machine."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"an impossible time ({seconds:g} s)"


def format_age(seconds: float) -> str:
    """Return how long ago a time was, seconds since 1970; `never` for 0."""
    if not seconds:
        return "never"
    passed = max(0.0, time.time() - seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed / size:.0f} {unit} ago"
    return f"{passed:.0f} s ago"
