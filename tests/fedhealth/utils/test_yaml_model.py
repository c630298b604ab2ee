"""A YAML file as a dataclass: any content is read or refused in our own words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fedhealth.errors import ConfigError
from fedhealth.types import UserPath
from fedhealth.utils.yaml_model import load_yaml


@dataclass(frozen=True)
class Inner:
    number: int = 1
    where: UserPath | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    share: float = 0.5
    words: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)
    more: Mapping[str, Inner] = field(default_factory=dict)


def read(path, text):
    path.write_text(text)
    return load_yaml(path, Outer, lambda outer: [] if outer.share < 1 else ["share: too much."], "Correct it.")


def test_every_kind_is_read(tmp_path):
    text = "name: a\nshare: 0\nwords: [b, c]\ninner: {where: ~/x}\nmore: {d: {number: 2}}\n"
    found = read(tmp_path / "x.yaml", text)
    assert found == Outer("a", 0.0, ("b", "c"), Inner(1, Path("~/x").expanduser()), {"d": Inner(2)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\ninner:\n\twhere: x\n", ", line 3: a tab; indent with blanks."),
        ("name: a\nshare 0.5\n", ", line 2: could not find expected ':'."),
        ("name: a\nwords: [b\n", ", line 2: "),
    ],
)
def test_a_line_that_is_not_yaml_is_named(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "x.yaml", text)
    assert caught.value.problem.startswith(f"{tmp_path / 'x.yaml'}{said}")
    assert "<unicode string>" not in caught.value.problem


def test_a_file_in_a_windows_encoding_is_refused_with_its_line(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_bytes("name: a\n# Klinik für Kinder\nshare: 0.5\n".encode("cp1252"))
    with pytest.raises(ConfigError, match="line 2, '# Klinik für Kinder'") as caught:
        load_yaml(path, Outer, lambda outer: [], "Correct it.")
    assert caught.value.problem.startswith(f"{path} is not in UTF-8")
    assert "Save it as UTF-8" in caught.value.advice


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nshare: x\ninner:\n  number: y\n", [", line 2: share: ", ", line 4: inner.number: "]),
        ("name: a\nwords:\n  - b\n  - 1\n", [", line 4: words[1]: "]),
        ("name: a\ninner:\n  bogus: 1\n", [", line 3: inner.bogus: there is no such key."]),
        ("share: 0.5\n", [": name: is missing."]),  # of the whole file
    ],
)
def test_every_fault_has_its_line(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "x.yaml", text)
    found = caught.value.problem.splitlines()
    assert all(line.startswith(f"{tmp_path / 'x.yaml'}{start}") for line, start in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("name: 1\nshare: x\nbogus: 1\n", ["name: 1 is not", "share: 'x' is not", "bogus: there is no such key"]),
        ("inner: {number: 1.5, where: 3}\n", ["name: is missing", "inner.number", "inner.where"]),
        ("name: a\nwords: b\nmore: {d: 1}\n", ["words: 'b'", "more.d: expected a mapping"]),
        ("name: a\nwords: [1]\ninner: {number: true}\n", ["words[0]: 1", "inner.number: True"]),
        ("name: a\nshare: 2\n", ["share: too much."]),
        ("name: a\nname: b\n", ["line 2"]),
        ("name: a\ninner: {where: ''}\n", ["inner.where: '' is not"]),
        ("name: a\ninner: {where: ~nobody-here/x}\n", ["inner.where", "no such home folder"]),
        ("[a]\n", ["the file: expected a mapping"]),
        ("name: ${oc.env:HOME}\nshare: ${x}\n", ["share: '${x}'"]),
    ],
)
def test_all_faults_are_named(tmp_path, text, faults):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "x.yaml", text)
    for fault in faults:
        assert fault in caught.value.problem


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "share", "inner", "more", "number", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(content=YAML)
def test_any_content_is_read_or_refused_in_our_own_words(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    try:
        text = OmegaConf.to_yaml(OmegaConf.create(content)) if isinstance(content, dict | list) else str(content)
    except Exception:  # OmegaConf itself refuses some; the raw text is as good
        text = str(content)
    try:
        found = read(path, text)
    except ConfigError:
        return
    assert isinstance(found, Outer)


@given(text=st.text(max_size=100))
def test_any_text_is_read_or_refused_in_our_own_words(tmp_path_factory, text):
    with pytest.raises(ConfigError):
        read(tmp_path_factory.getbasetemp() / "any.yaml", text.encode("utf-8", "replace").decode())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name: a\nmore:\n  no: {number: 1}\n", "line 3: YAML reads no as true or false"),
        ("name: 01\n", "line 1: YAML reads 01 as another number"),
        ("name: 1:30\n", "line 1: YAML reads 1:30 as another number"),
        ("name: no\n", "name: YAML reads yes, no, on, off, true and false as False: put the word into quotes"),
    ],
)
def test_words_that_yaml_changes_are_refused(tmp_path, text, fault):
    with pytest.raises(ConfigError, match=fault):
        read(tmp_path / "x.yaml", text)


def test_quoted_words_are_kept(tmp_path):
    assert read(tmp_path / "x.yaml", "name: 'no'\nwords: ['01', \"1:30\", 2020-01-31]\n").words == (
        "01",
        "1:30",
        "2020-01-31",
    )
