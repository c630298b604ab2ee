import pytest

from fedhealth.config.capabilities import Capabilities, read_capabilities
from fedhealth.config.compose import compose_config, resolve_config
from fedhealth.config.warnings import list_warnings


def titles(*overrides):
    plain = resolve_config(compose_config(["data.root=x", *overrides]))
    return [title for title, _ in list_warnings(plain, read_capabilities(plain))]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["privacy=patient", "privacy.epsilon=10.5"], "Epsilon 10.5 at delta 1e-6 promises each patient little"),
        (["data.sites=[a,b]"], "Fewer than 3 hospitals"),
        (["runtime=deployment", "secagg=off"], "Between hospitals without differential privacy and without"),
        ([], "All data are on this machine"),
    ],
)
def test_it_is_said(overrides, said):
    assert any(title.startswith(said) for title in titles(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["runtime=deployment", "privacy=patient", "privacy.epsilon=10"],
        ["runtime=deployment", "secagg=off", "privacy=patient"],
        ["runtime=deployment", "secagg=on"],
    ],
)
def test_what_is_meant_is_not_warned_of(overrides):
    assert titles(*overrides) == []


def test_what_is_not_said_is_not_guessed():
    assert list_warnings({}, Capabilities(True, True, False)) == []
