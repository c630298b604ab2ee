"""What we use of Flower's insides: all of it listed in docs/decisions.md, and as it was when we looked.

After a new Flower release: read what moved, try `make test`, then write the new signatures with
`python -m tests.fedhealth.test_flower_seams` and the release into docs/decisions.md.
"""

import ast
import importlib
import inspect
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.supercore.corestate.sql_corestate import SqlCoreState
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supernode.fleet_http_client import FleetHttpClient

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).with_name("flower_seams.json")
PUBLIC = ("flwr.app", "flwr.serverapp", "flwr.clientapp", "flwr.serverapp.strategy")
DOCUMENT = (ROOT / "docs" / "decisions.md").read_text("utf-8")


def used():
    """Return every name of Flower's that we import from elsewhere than its public modules."""
    names = set()
    for folder in ("fedhealth", "strategies", "clients"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr"):
                    if node.module not in PUBLIC:
                        names |= {f"{node.module}.{alias.name}" for alias in node.names}
                elif isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names if alias.name.startswith("flwr.")}
    return names


def shape(name):
    """Return what a seam looks like from outside: parameters, functions, fields or a value."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    if hasattr(found, "DESCRIPTOR"):
        return ", ".join(f"{field.name}={field.number}" for field in found.DESCRIPTOR.fields)
    if inspect.ismodule(found):
        parts = sorted(vars(found).items())
        own = [part for _, part in parts if inspect.isfunction(part) and part.__module__ == found.__name__]
        return ", ".join(f"{part.__name__}({' '.join(inspect.signature(part).parameters)})" for part in own)
    if not callable(found):
        return repr(found)
    try:
        own = [name for name, part in vars(found).items() if inspect.isfunction(part) and name[:1] != "_"]
    except TypeError:
        own = []
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    plain = [str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters]
    return f"({', '.join(plain)}) {' '.join(sorted(own))}".strip()


def recorded():
    return json.loads(RECORDED.read_text("utf-8"))


def test_every_seam_is_listed_with_the_release_that_it_was_checked_against():
    section = DOCUMENT.split("Seams on Flower")[1].split("\n## ")[0]
    listed = set(re.findall(r"`(flwr\.[\w.]+)`", section))
    assert listed == used()
    assert f"Flower {'.'.join(version('flwr').split('.')[:2])}" in section


@pytest.mark.parametrize("name", sorted(recorded()))
def test_a_seam_has_not_moved(name):
    assert shape(name) == recorded()[name]


def test_nothing_is_forgotten():
    assert set(recorded()) == used()


def test_the_inner_parts_that_we_touch_are_there():
    assert "initial_backoff" in pull_objects.__kwdefaults__
    assert inspect.signature(SqlCoreState._cleanup_expired_task_tokens).parameters.keys() == {"self"}
    with FleetHttpClient("https://lead.example") as client:
        assert client._client.event_hooks.keys() >= {"response"}
        assert client._client.follow_redirects


if __name__ == "__main__":
    RECORDED.write_text(json.dumps({name: shape(name) for name in sorted(used())}, indent=1) + "\n", "utf-8")
