"""The peers' own virtual environments: pinned by `peers_locks`, made once by uv, which stores equal files once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_LOCKS = Path(__file__).with_name("peers_locks")


@dataclass(frozen=True)
class Environment:
    """One peer's environment.

    Attributes:
        name: of the peer, its lock and its folder.
        python: the version of Python that the peer needs.
        imports: what its scripts import, which is compiled and read from the disk once before anything is measured.

    """

    name: str
    python: str
    imports: str


class MissingEnvironmentError(RuntimeError):
    """An environment cannot be made here; the message says why."""


ENVIRONMENTS = (
    Environment("flower", "3.11", "torch, opacus, ray, flwr.simulation"),
    Environment("nvflare", "3.11", "torch, opacus, nvflare.recipe"),
    Environment("fl4health", "3.10", "torch, opacus, fl4health.clients.instance_level_dp_client"),
)


def prepare_environment(environment: Environment, folder: Path) -> Path:
    """Return the Python of an environment below a folder; make it if it is not there or its lock has changed.

    Raises:
        MissingEnvironmentError: its Python is not installed and cannot be had, or packages cannot be downloaded.

    """
    home, lock = folder / environment.name, _LOCKS / f"{environment.name}.lock"
    python, made = home / "bin" / "python", home / "made.lock"
    if not (made.is_file() and made.read_text("utf-8") == lock.read_text("utf-8")):
        folder.mkdir(parents=True, exist_ok=True)
        base = find_python(environment.python) or environment.python
        _run_uv(folder, "venv", "--clear", "--python", base, str(home))
        _run_uv(folder, "pip", "install", "--compile-bytecode", "--python", str(python), "-r", str(lock))
        shutil.copyfile(lock, made)
    done = subprocess.run([python, "-c", f"import {environment.imports}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingEnvironmentError((done.stderr.strip() or "no message").splitlines()[-1])
    return python


def find_python(version: str) -> str | None:
    """Return an installed interpreter of a version: on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    own = sys.executable if version == f"{sys.version_info.major}.{sys.version_info.minor}" else None
    candidates = [own, shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python"))]
    return next((each for each in candidates if each and _is_version(each, version)), None)


def _is_version(python: str, version: str) -> bool:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def _run_uv(folder: Path, *arguments: str) -> None:
    """Run uv with its cache below the folder, so that files are linked and one folder holds everything."""
    uv = Path(sys.executable).with_name("uv")
    settings = {**os.environ, "UV_CACHE_DIR": str(folder / "uv-cache")}
    try:
        done = subprocess.run([uv, "--quiet", *arguments], env=settings, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MissingEnvironmentError("uv is not installed beside this Python: `pip install uv`.") from None
    if done.returncode:
        raise MissingEnvironmentError(" ".join(done.stderr.split())[:300])
