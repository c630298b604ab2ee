"""The Flower app bundle (FAB) of every run: names of installed applications and no code.

A site runs only what its own staff installed: it computes this bundle's hash from its installed package and accepts no
other bundle. The hash covers the protocol and the code that both sides share, not the release's number: releases that
share them work together (`fedhealth.protocol.compatibility`).
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

from fedhealth.protocol.compatibility import compute_shared_digest
from fedhealth.protocol.messages import PROTOCOL_VERSION

PUBLISHER, NAME = "fedhealth", "fedhealth-run"
SERVER_APP, CLIENT_APP = "strategies.app:app", "clients.app:app"
_PROJECT = """\
[project]
name = "{name}"
version = "{protocol}.0.0"
description = "Names the installed applications and holds no code. Flower {flwr}. Shared code {code}."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "{publisher}"

[tool.flwr.app.components]
serverapp = "{server_app}"
clientapp = "{client_app}"

[tool.flwr.app.config]
job = ""
signature = ""
study = ""
"""


@dataclass(frozen=True)
class AppBundle:
    """A Flower app bundle.

    Attributes:
        content: of the bundle file.
        digest: SHA-256 of the content, hexadecimal; Flower identifies the app of a run by it.

    """

    content: bytes
    digest: str


@lru_cache(maxsize=1)
def build_bundle() -> AppBundle:
    """Return the bundle of this installation; the same wherever shared code and Flower's minor release are the same."""
    from flwr.cli.build import build_fab_from_files

    project = _PROJECT.format(
        publisher=PUBLISHER,
        name=NAME,
        protocol=PROTOCOL_VERSION,
        flwr=".".join(version("flwr").split(".")[:2]),
        code=compute_shared_digest(),
        server_app=SERVER_APP,
        client_app=CLIENT_APP,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pathspec's, raised in Flower
        content, _ = build_fab_from_files({"pyproject.toml": project.encode()})
    return AppBundle(content, hashlib.sha256(content).hexdigest())
