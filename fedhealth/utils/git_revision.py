"""Which source a run was made with, where it runs from a git checkout."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def revision() -> str | None:
    """Return the checked-out commit, `+changes` behind it where files differ; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None or _git(here, "rev-parse", "--show-prefix") != "":
        return None
    return f"{commit[:12]}+changes" if _git(here, "status", "--porcelain", "--untracked-files=no") else commit[:12]


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
