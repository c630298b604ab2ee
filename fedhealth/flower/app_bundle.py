"""The Flower bundle of every run: names of installed applications and no code.

A site runs what its own staff installed: it predicts this bundle's hash from its installed package and accepts no
other.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

PUBLISHER, NAME = "fedhealth", "fedhealth-run"
_PROJECT = """\
[project]
name = "{name}"
version = "{version}"
description = "Names the installed applications and holds no code. Flower {flwr}."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "{publisher}"

[tool.flwr.app.components]
serverapp = "strategies.app:app"
clientapp = "clients.app:app"

[tool.flwr.app.config]
job = ""
signature = ""
"""


@dataclass(frozen=True)
class Bundle:
    """A Flower app bundle.

    Attributes:
        content: the file.
        digest: SHA-256 of it, hexadecimal; Flower calls runs by it.

    """

    content: bytes
    digest: str


@lru_cache(maxsize=1)
def bundle() -> Bundle:
    """Return the bundle of this installation; the same everywhere for the same releases."""
    from flwr.cli.build import build_fab_from_files

    project = _PROJECT.format(publisher=PUBLISHER, name=NAME, version=version("fedhealth"), flwr=version("flwr"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's, of pathspec
        content, _ = build_fab_from_files({"pyproject.toml": project.encode()})
    return Bundle(content, hashlib.sha256(content).hexdigest())
