"""Provenance: from which commit, with which tools, and which files (in-toto statement, SLSA provenance 1)."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any


def build_provenance(
    commit: str, epoch: int, subjects: Mapping[str, str], materials: Mapping[str, str]
) -> dict[str, Any]:
    """Return the statement.

    Args:
        commit: of the sources.
        epoch: time of the commit, seconds since 1970.
        subjects: SHA-256 of what was built, by name.
        materials: SHA-256 of the locks, by name.

    """
    tools = {"python": platform.python_version(), "hatchling": version("hatchling")}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "make release",
                "externalParameters": {"commit": commit, "source_date_epoch": epoch},
                "internalParameters": tools,
                "resolvedDependencies": [
                    {"name": "source", "digest": {"gitCommit": commit}},
                    *({"name": name, "digest": {"sha256": digest}} for name, digest in materials.items()),
                ],
            },
            "runDetails": {"builder": {"id": "make release, in a clone of the repository"}},
        },
    }
