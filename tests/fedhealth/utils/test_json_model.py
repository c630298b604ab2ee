"""JSON as a dataclass: every fault is named with its place, and nothing else is read."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import ConfigError, FedhealthError, TrustError
from fedhealth.utils.json_model import WholeNumber, decode_hex, join_faults, match_form, parse_model


@dataclass(frozen=True)
class Inner:
    key: Annotated[bytes, decode_hex(2)]
    serial: WholeNumber = 0


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, match_form(re.compile("[a-z]+"), "lower case letters")]
    share: float = 0.5
    inner: tuple[Inner, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def parse(content, error=TrustError):
    return parse_model(content, Outer, "The kit", "Ask for a new one.", error, 2**16)


def test_every_kind_is_read():
    text = '{"name":"a","share":1,"inner":[{"key":"00ff","serial":3}],"more":{"x":[1.5,null]}}'
    assert parse(text) == parse(text.encode()) == Outer("a", 1.0, (Inner(b"\x00\xff", 3),), {"x": [1.5, None]})


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({"share": "x", "y": 1}, ["name: is missing", "share: 'x' is not a number", "y: there is no such key"]),
        ({"name": "A"}, ["name: 'A' is not valid (expected lower case letters)"]),
        ({"name": 1}, ["name: 1 is not a text"]),
        ({"name": "a", "inner": {}}, ["inner: {} is not a list"]),
        ({"name": "a", "inner": [1, {"key": "0F00"}]}, ["inner[0]: expected an object", "inner[1].key: '0F00' is not"]),
        ({"name": "a", "inner": [{"key": "00ff", "serial": True}]}, ["inner[0].serial: True is not a whole number"]),
        ({"name": "a", "inner": [{"key": 7, "serial": -1}]}, ["expected 4 hexadecimal digits", "inner[0].serial: -1"]),
        ({"name": "a", "inner": [{"key": "00ff", "serial": 1.0}]}, ["inner[0].serial: 1.0 is not a whole number"]),
        ({"name": "b" * 99 + "1"}, ["b" * 79 + "... is not valid"]),
        ([], ["the file: expected an object"]),
        ({"name": "a", "inner": [0] * 30}, ["inner[19]: expected an object; and 10 more faults"]),
    ],
)
def test_all_faults_are_named(fields, faults):
    with pytest.raises(TrustError) as caught:
        parse(json.dumps(fields))
    assert caught.value.problem.startswith("The kit: ")
    assert all(fault in caught.value.problem for fault in faults)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"name":"a","name":"a"}',
        b'{"name":"a","share":NaN}',
        b'{"name":"a","more":{"x":Infinity}}',
        b'{"name":"a","more":{"x":-1e999}}',
        b'{"name":"a"}, {"name":"a"}',
        b'{"name":"a"}' + b" " * 2**16,
        b"[" * 5000,
        b'{"name":"a","more":' + b'{"x":' * 300 + b"1" + b"}" * 301,
        '{"name":"a"}'.encode("utf-16"),
        b'{"name":"a\xff"}',
        '{"name":"a","more":{"x":"\ud800"}}',
        '{"name":"a","more":{"x":"\\ud800"}}',
    ],
)
def test_what_is_not_plain_json_is_refused(content):
    with pytest.raises(TrustError, match="The kit"):
        parse(content)


def test_a_key_from_outside_cannot_control_the_terminal_and_is_short():
    with pytest.raises(TrustError) as caught:
        parse(json.dumps({"name": "a", "\x1b]0;x\x07\u202e": 1, "k" * 5000: 2}))
    assert "\\u001b]0;x\\u0007\\u202e: there is no such key" in caught.value.problem
    assert len(caught.value.problem) < 300


@pytest.mark.parametrize(("encoding", "said"), [("utf-8-sig", "byte order mark"), ("utf-16", "not UTF-8")])
def test_an_editors_encoding_is_named(encoding, said):
    with pytest.raises(TrustError, match=said):
        parse('{"name":"a"}'.encode(encoding))


def test_the_error_is_of_the_callers_class():
    with pytest.raises(ConfigError, match="The kit: name: is missing") as caught:
        parse("{}", ConfigError)
    assert caught.value.advice == "Ask for a new one."


def test_few_faults_are_all_told():
    assert join_faults(["a", "b"]) == "a; b"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "share", "inner", "key", "more", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(content=JSON.map(json.dumps) | st.text() | st.binary())
def test_anything_is_read_or_refused_in_our_own_words(content):
    try:
        found = parse(content)
    except FedhealthError:
        return
    assert isinstance(found, Outer)


@given(value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**53 - 1))
def test_numbers_are_those_of_the_standard_library(value):
    """So that what was signed is signed again with the same bytes."""
    text = json.dumps({"name": "a", "share": value, "more": {"x": value}})
    found = parse(text)
    assert json.dumps(found.more["x"]) == json.dumps(value)
    assert found.share == float(value)
