"""The private interfaces of Flower that we use: all are in docs/decisions/flower.md and unchanged since the last check.

After a new Flower release: read what changed, run `make test`, then record the new signatures with
`python -m tests.fedhealth.flower.test_flower_seams`, and the release in `fedhealth.flower.compat` and
docs/decisions/flower.md.
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

from fedhealth.flower.compat import CHECKED_FLOWER_RELEASE

ROOT = Path(__file__).resolve().parents[3]
RECORDED = Path(__file__).with_name("flower_seams.json")
PUBLIC = ("flwr.app", "flwr.serverapp", "flwr.clientapp", "flwr.serverapp.strategy")
DOCUMENT = ROOT / "docs" / "decisions" / "flower.md"


def list_private_imports(path):
    """Return every name that a file imports from a module of Flower's that is not public."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and re.match(r"flwr\b", node.module or ""):
            if node.module not in PUBLIC:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if re.match(r"flwr\b", alias.name)}
    return names


def list_sources():
    return [path for folder in ("fedhealth", "strategies", "clients") for path in (ROOT / folder).rglob("*.py")]


def list_seams():
    """Return every name that our sources import from Flower's private modules."""
    return set().union(*map(list_private_imports, list_sources()))


def describe_seam(name):
    """Return the interface of a seam: parameters, functions, fields or a value."""
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


def load_recorded():
    return json.loads(RECORDED.read_text("utf-8"))


def test_private_modules_are_imported_in_the_flower_package_only():
    outside = [path for path in list_sources() if not path.is_relative_to(ROOT / "fedhealth" / "flower")]
    assert len(outside) > 100
    found = {str(path.relative_to(ROOT)): list_private_imports(path) for path in outside}
    assert {path: sorted(names) for path, names in found.items() if names} == {}


def test_every_seam_is_listed_with_the_release_that_it_was_checked_against():
    document = DOCUMENT.read_text("utf-8")
    listed = set(re.findall(r"`(flwr\.[\w.]+)`", document))
    assert listed == list_seams()
    assert f"Flower {CHECKED_FLOWER_RELEASE}" in document


def test_the_installed_release_is_the_checked_one():
    assert ".".join(version("flwr").split(".")[:2]) == CHECKED_FLOWER_RELEASE


@pytest.mark.parametrize("name", sorted(load_recorded()))
def test_a_seam_has_not_changed(name):
    assert describe_seam(name) == load_recorded()[name]


def test_every_seam_is_recorded():
    assert set(load_recorded()) == list_seams()


def test_the_private_attributes_that_we_patch_exist():
    assert "initial_backoff" in pull_objects.__kwdefaults__
    assert inspect.signature(SqlCoreState._cleanup_expired_task_tokens).parameters.keys() == {"self"}
    with FleetHttpClient("https://lead.example") as client:
        assert client._client.event_hooks.keys() >= {"response"}
        assert client._client.follow_redirects


if __name__ == "__main__":
    signatures = {name: describe_seam(name) for name in sorted(list_seams())}
    RECORDED.write_text(json.dumps(signatures, indent=1) + "\n", "utf-8")
