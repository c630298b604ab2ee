"""Warnings and the table of incompatibilities ask parts what they declare: own classes are treated like ours."""

import ast
import sys
from pathlib import Path
from types import ModuleType

import pytest

import fedhealth
from fedhealth.config.capabilities import get_capability, read_capabilities
from fedhealth.config.compose import compose_config, resolve_config
from fedhealth.config.incompatibilities import find_incompatibilities
from fedhealth.config.warnings import list_warnings
from fedhealth.runtime.local import LocalRuntime
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.trainer import PlainTrainer
from strategies.aggregation.secure import SecureSum

OPEN = "Between hospitals without differential privacy and without secure aggregation"
HERE = "All data are on this machine"


class OwnRuntime:
    """Runs jobs somewhere else, and declares nothing."""

    def launch(self, job):
        """Do nothing."""


class OwnLocalRuntime(LocalRuntime):
    """Inherits that all data are here."""


class OwnPlainTrainer:
    """Trains without privacy, and declares nothing."""


class OwnPrivateTrainer(DPSGDTrainer):
    """Inherits that training is private."""


class OwnSecureSum(SecureSum):
    """Inherits that the lead sees sums only."""


class OwnMean:
    """Adds up updates, and declares nothing."""


class PropertyTrainer(PlainTrainer):
    """Declares by a property, which a class cannot answer."""

    is_private = property(lambda self: True)


@pytest.fixture(autouse=True)
def _own_module(monkeypatch):
    module = ModuleType("own_parts")
    for part in (
        OwnRuntime,
        OwnLocalRuntime,
        OwnPlainTrainer,
        OwnPrivateTrainer,
        OwnSecureSum,
        OwnMean,
        PropertyTrainer,
    ):
        setattr(module, part.__name__, part)
    monkeypatch.setitem(sys.modules, "own_parts", module)


def resolved(*overrides):
    return resolve_config(compose_config(["data.root=x", *overrides]))


def titles(*overrides):
    plain = resolved(*overrides)
    return [title for title, _ in list_warnings(plain, read_capabilities(plain))]


def own(key, name, *drop):
    return [*(f"~{key}.{other}" for other in drop), f"{key}._target_=own_parts.{name}"]


RUNTIME = own("runtime", "OwnRuntime", "server_app", "client_app")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*RUNTIME, "secagg=off"], [OPEN]),
        ([*RUNTIME, "secagg=on"], []),
        ([*RUNTIME, "secagg=off", "privacy=patient"], []),
        ([*RUNTIME, "secagg=off", *own("privacy", "OwnPlainTrainer")], [OPEN]),
        ([*RUNTIME, "secagg=off", *own("privacy", "PropertyTrainer")], [OPEN]),
        ([*RUNTIME, "secagg=off", "privacy=patient", *own("privacy", "OwnPrivateTrainer")], []),
        ([*RUNTIME, "secagg=on", *own("secagg.lead", "OwnSecureSum")], []),
        ([*RUNTIME, "secagg=off", *own("secagg.lead", "OwnMean")], [OPEN]),
        ([*RUNTIME, "secagg=off", "strategy/aggregation=median"], [OPEN]),
        (["secagg=off", *own("runtime", "OwnLocalRuntime")], [HERE]),
    ],
)
def test_own_parts_are_warned_of_by_what_they_declare(overrides, said):
    assert titles(*overrides) == said


def test_a_transport_in_plaintext_shows_updates_whatever_the_lead_declares():
    plain = resolved("secagg=on", "secagg.site={_target_: clients.transport.plaintext.PlaintextTransport}")
    assert read_capabilities(plain).lead_sees_single_updates


def test_an_aggregation_that_reads_single_updates_does_not_go_with_masked_ones():
    [fault] = find_incompatibilities(resolved("secagg=on", *own("secagg.lead", "OwnMean")))
    assert fault.startswith("robust aggregation with secagg=on")
    assert not [*find_incompatibilities(resolved("secagg=on", *own("secagg.lead", "OwnSecureSum")))]


@pytest.mark.parametrize("node", [None, "x", {}, {"_target_": 1}, {"_target_": "no.such.part"}, {"_target_": "os.sep"}])
def test_what_is_not_declared_has_the_default(node):
    assert get_capability(node, "is_private", default=False) is False
    assert get_capability(node, "sees_single_updates", default=True) is True


def test_no_part_outside_the_package_is_named_in_it_but_the_two_applications():
    """A class path in code treats somebody's own class differently from ours."""
    named = [
        (path.name, node.value)
        for path in sorted(Path(fedhealth.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.startswith(("strategies.", "clients."))
    ]
    assert named == [("app_bundle.py", "strategies.app:app"), ("app_bundle.py", "clients.app:app")]
