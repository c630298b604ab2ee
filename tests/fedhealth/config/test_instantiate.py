import sys
from functools import partial
from types import SimpleNamespace

import pytest

from fedhealth.config.instantiate import instantiate
from fedhealth.errors import ConfigError, DataError
from fedhealth.utils.own_code import OwnCodeError


class Part:
    def __init__(self, size, other=None):
        if size < 0:
            raise DataError("size is negative", "Enlarge it.")
        if size == 0:
            raise ValueError("first line\nsecond line")
        if size == 7:
            {}["gone"]
        self.size, self.other = size, other


@pytest.fixture
def node(monkeypatch):
    """A node whose target is this module's class, wherever pytest imported it from."""
    monkeypatch.setitem(sys.modules, "parts_of_a_test", SimpleNamespace(Part=Part))
    return lambda **values: {"_target_": "parts_of_a_test.Part", **values}


def test_values_and_arguments_are_passed(node):
    part = instantiate(node(size=2), other="x")
    assert (part.size, part.other) == (2, "x")


def test_a_partial_node_waits_for_its_arguments(node):
    assert isinstance(instantiate(node(_partial_=True)), partial)


def test_our_own_errors_are_kept_whole(node):
    with pytest.raises(DataError) as caught:
        instantiate(node(size=-1))
    assert (caught.value.problem, caught.value.advice) == ("size is negative", "Enlarge it.")


@pytest.mark.parametrize(("values", "reason"), [({"size": 0}, "first line"), ({}, "size"), ({"siz": 1}, "siz")])
def test_any_other_failure_becomes_one_line(node, values, reason):
    with pytest.raises(ConfigError) as caught:
        instantiate(node(**values))
    assert caught.value.problem.startswith("parts_of_a_test.Part cannot be built: ")
    assert reason in caught.value.problem
    assert "\n" not in caught.value.problem


def test_a_module_that_is_not_installed_is_advised_to_be():
    with pytest.raises(ConfigError, match="No module named 'mine_nowhere'") as caught:
        instantiate({"_target_": "mine_nowhere.Part"})
    assert "pip install -e ." in caught.value.advice
    assert "PYTHONPATH=FOLDER" in caught.value.advice


def test_an_error_inside_a_constructor_is_told_with_type_and_line(node):
    with pytest.raises(OwnCodeError, match=rf"Part.__init__ \({__file__}, line \d+\) raised KeyError: 'gone'"):
        instantiate(node(size=7))
