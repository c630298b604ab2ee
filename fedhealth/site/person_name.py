"""The name of a person who decides: never one that stands for the hospital's policy in records."""

from __future__ import annotations

import unicodedata

from fedhealth.errors import ConfigError

BY_POLICY = "policy"
"""Who approved a minor amendment that `limits.minor_amendments` accepts."""


def check_person(name: str) -> str:
    """Return a person's name as given.

    Raises:
        ConfigError: it reads as if the policy had decided.

    """
    if unicodedata.normalize("NFKC", name).strip().casefold() == BY_POLICY:
        raise ConfigError(
            f"A person cannot be called {name!r} here: in the records that is the hospital's policy.",
            "Give the name of the person who decides.",
        )
    return name
