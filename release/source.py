"""The sources of a release: exactly one commit, exported to a new folder, and the packages that are built from it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from fedhealth.errors import ConfigError


def export_commit(repository: Path, folder: Path) -> tuple[str, int]:
    """Write the files of the current commit to `folder`; return the commit and its time (seconds since 1970).

    Uncommitted changes are not part of a release.

    Raises:
        ConfigError: `repository` is not a git repository with a commit.

    """
    try:
        commit = _run_git(repository, "rev-parse", "HEAD").decode().strip()
        epoch = int(_run_git(repository, "show", "-s", "--format=%ct", commit))
        content = _run_git(repository, "archive", "--format=tar", commit)
    except (OSError, subprocess.CalledProcessError) as fault:
        raise ConfigError(
            f"{repository} is not a git clone.", "Build a release in a clone of the repository."
        ) from fault
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")
    return commit, epoch


def build_packages(source: Path, folder: Path, epoch: int) -> tuple[Path, Path]:
    """Build the wheel and the source distribution reproducibly; return their paths."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    subprocess.run(  # noqa: S603
        command, cwd=source, env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}, check=True, stdout=subprocess.DEVNULL
    )
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def _run_git(repository: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True).stdout  # noqa: S603, S607
