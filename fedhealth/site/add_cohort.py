"""Add an ingested cohort to site.yaml, at the request of the hospital's staff; all other lines stay as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.types import SITE_ID
from fedhealth.utils.atomic_io import write_atomic

_DATA_KEY = re.compile(r"^data:[ \t]*(?:#.*)?$", re.MULTILINE)


def add_cohort(home: SiteHome, name: str, root: Path) -> bool:
    """Add a cohort under the consortium's name; return False if it is there already.

    Raises:
        ConfigError: site.yaml is missing or invalid, has other data of this name, or cannot be extended.

    """
    policy = load_policy(home)
    if name in policy.data:
        if policy.data[name].root.resolve() == root.resolve() and policy.data[name].ingested:
            return False
        raise ConfigError(
            f"{home.policy} already has data {name!r}, elsewhere.", "Change its root by hand if it moved."
        )
    if not SITE_ID.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be the name of a data set.", "Add the cohort to site.yaml by hand.")
    before = home.policy.read_text("utf-8")
    after = _insert_entry(
        before, f"  {name}:\n    dataset: {name}\n    root: {json.dumps(str(root))}\n    ingested: true\n"
    )
    write_atomic(home.policy, after.encode())
    try:
        is_there = name in load_policy(home).data
    except ConfigError:
        is_there = False
    if not is_there:
        write_atomic(home.policy, before.encode())
        raise ConfigError(f"{home.policy} cannot be extended: `data` is written in another way.", "Edit it by hand.")
    return True


def _insert_entry(text: str, entry: str) -> str:
    """Return the text with an entry below the key `data`, or with this key at its end."""
    found = _DATA_KEY.search(text)
    if found is None:
        return f"{text.rstrip()}\n\ndata:\n{entry}"
    return f"{text[: found.end()]}\n{entry}{text[found.end() :].removeprefix(chr(10))}"
