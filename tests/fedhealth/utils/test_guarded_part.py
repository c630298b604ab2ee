"""A user's own part: other arguments, another type and an error inside are told by its class and file."""

import copy
import pickle
from typing import get_type_hints

import numpy as np
import pytest

from clients.personalization.base import Personalization
from fedhealth.data.image_source import ImageSource
from fedhealth.ingest.source import IngestSource, SourceFile
from fedhealth.ingest.table_source import TableSource
from fedhealth.models.model_method import ModelMethod
from fedhealth.utils.guarded_part import GuardedPart, describe_value, get_part, guard_part
from fedhealth.utils.own_code import OwnCodeError
from strategies import Aggregation, Momentum, ServerMethodState, ServerOptimizer

PROTOCOLS = (Aggregation, ServerOptimizer, ServerMethodState, Personalization, ModelMethod)
SOURCES = (ImageSource, IngestSource, TableSource)


class Mine:
    def __init__(self):
        self.state = {}

    def step(self, arrays, update):
        return self.make(arrays, update)

    def make(self, arrays, update):
        return {name: array + update[name] for name, array in arrays.items()}


class MineWithoutUpdate:
    def step(self, arrays):
        return arrays


def make_optimizer(make=None, kind=Mine):
    mine = kind()
    if make is not None:
        mine.make = make
    return guard_part(mine, ServerOptimizer)


ARRAYS = {"w": np.ones(2, np.float32)}


def test_a_part_that_keeps_its_contract_works_as_without_a_guard():
    optimizer = make_optimizer()
    assert optimizer.step(ARRAYS, ARRAYS)["w"].tolist() == [2, 2]
    assert optimizer.step(arrays=ARRAYS, update=ARRAYS)["w"].tolist() == [2, 2]
    optimizer.state = ARRAYS
    assert get_part(optimizer).state is optimizer.state is ARRAYS


def test_our_own_parts_and_none_are_not_guarded():
    momentum = Momentum()
    assert guard_part(momentum, ServerOptimizer) is momentum
    assert guard_part(None, ServerOptimizer) is None


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (None, "returned None"),
        ([ARRAYS], "returned a list"),
        ({"w": [1.0]}, "returned a dict"),
        (ARRAYS["w"], "returned an array of float32, shape [2]"),
    ],
)
def test_another_type_is_told_with_class_file_and_contract(result, found):
    with pytest.raises(OwnCodeError) as caught:
        make_optimizer(lambda *_: result).step(ARRAYS, ARRAYS)
    assert f"Mine ({__file__}): `step` {found}, not dict[str, ndarray]." in caught.value.problem
    assert "`step(arrays: State, update: State) -> State`: Return the next shared arrays" in caught.value.advice


def test_other_arguments_are_told():
    with pytest.raises(OwnCodeError, match=r"MineWithoutUpdate.step \(.*\) cannot be called: too many positional"):
        make_optimizer(kind=MineWithoutUpdate).step(ARRAYS, ARRAYS)


def test_a_method_that_is_not_there_is_told():
    with pytest.raises(OwnCodeError, match=r"Files \(.*\) has no `step`"):
        make_optimizer(kind=Files).step(ARRAYS, ARRAYS)


def test_an_error_inside_names_the_line():
    with pytest.raises(OwnCodeError, match=rf"Mine.make \({__file__}, line \d+\) raised KeyError: 'w'"):
        make_optimizer().step(ARRAYS, {})


def test_an_attribute_of_another_type_is_told():
    optimizer = make_optimizer()
    get_part(optimizer).state = None
    with pytest.raises(OwnCodeError, match=r"Mine \(.*\): its `state` is None, not dict\[str, ndarray\]"):
        _ = optimizer.state


class Files:
    def contains_folder(self, folder):
        return "yes"

    def items(self):
        return [SourceFile("a", "1")]

    def open(self, item):
        return item.name


def test_a_list_serves_for_an_iterator_and_a_text_for_no_file():
    source = guard_part(Files(), IngestSource)
    assert [each.name for each in source.items()] == ["a"]
    with pytest.raises(OwnCodeError, match="`open` returned a str, not BinaryIO"):
        source.open(SourceFile("a", "1"))
    with pytest.raises(OwnCodeError, match="`contains_folder` returned a str, not bool"):
        source.contains_folder(None)


def test_a_guarded_part_is_sent_to_other_processes():
    for again in (pickle.loads(pickle.dumps(guard_part(Files(), IngestSource))), copy.deepcopy(make_optimizer())):
        assert isinstance(again, GuardedPart)
    assert make_optimizer().step(ARRAYS, ARRAYS)["w"].tolist() == [2, 2]


@pytest.mark.parametrize("protocol", PROTOCOLS + SOURCES, ids=lambda each: each.__name__)
def test_every_protocol_says_what_its_methods_return(protocol):
    methods = [value for base in protocol.__mro__ for name, value in vars(base).items() if name[0] != "_"]
    methods = [each.fget if isinstance(each, property) else each for each in methods]
    for method in filter(callable, methods):
        assert "return" in get_type_hints(method)
        assert method.__doc__
    get_type_hints(protocol)


def test_a_value_is_described_without_what_it_holds():
    assert describe_value(np.zeros((2, 3), np.int64)) == "an array of int64, shape [2, 3]"
    assert describe_value("a patient's name") == "a str"
