"""The git revision of the source that a run was made with."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def read_git_revision() -> str | None:
    """Return the checked-out commit, with `+changes` if files were modified; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]
    commit = _run_git(here, "rev-parse", "HEAD")
    if commit is None or _run_git(here, "rev-parse", "--show-prefix") != "":
        return None
    return f"{commit[:12]}+changes" if _run_git(here, "status", "--porcelain", "--untracked-files=no") else commit[:12]


def _run_git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
