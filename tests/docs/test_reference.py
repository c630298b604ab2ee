"""docs/reference: every exported name is there, and its docstring says shapes, units and errors where they apply."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "reference"
PAGES = {
    "fedhealth": "runs.md",
    "fedhealth.privacy": "privacy.md",
    "fedhealth.secagg": "secagg.md",
    "strategies": "strategies.md",
    "clients": "clients.md",
}
# By page, what a guide tells a user to import that no package exports, in the order of the page.
MORE = {
    "runs.md": [
        ("fedhealth.data.synthetic", "write_hospitals"),
        ("fedhealth.export.predict", "StudyInput"),
        ("fedhealth.export.predict", "score_studies"),
    ],
    "clients.md": [("fedhealth.protocol.secure_terms", "SecureTerms")],
    "models.md": [
        *(("fedhealth.models.encoders.base", name) for name in ("Encoder", "TokenizingEncoder", "set_trainable")),
        *(("fedhealth.models.encoders.pixel_scaling", name) for name in ("PixelScale", "scale_pixels")),
    ],
}
EXPORTED = [(package, name) for package in PAGES for name in importlib.import_module(package).__all__ if name[0] != "_"]
NAMES = [*EXPORTED, *(each for names in MORE.values() for each in names)]
ARRAYS = re.compile(r"ndarray|NDArray|Tensor|\bState\b|Vectors|PackedWords|DataFrame|ArrayRecord")
SHAPES = re.compile(r"\[[A-Z0-9\w, .]+\]|float32|int64|uint8|\bshapes?\b|by name|named|same length|row for|\{name")
UNITS = {"timeout": "second", "seconds": "second", "wait": "second", "deadline": "second", "size": "row|byte|value"}


def list_callables(package, name):
    """Yield (name, callable, its class or None) of an exported name: itself, or its public methods and constructor."""
    found = getattr(importlib.import_module(package), name)
    if inspect.isfunction(found):
        yield name, found, None
    elif inspect.isclass(found):
        for key, value in vars(found).items():
            function = getattr(value, "__func__", None) or getattr(value, "fget", None) or getattr(value, "func", value)
            is_written = inspect.isfunction(function) and not function.__code__.co_filename.startswith("<")
            if is_written and (key == "__init__" or key[0] != "_"):
                yield f"{name}.{key}", inspect.unwrap(function), found


def docs_of(function, owner):
    return "\n".join(filter(None, [inspect.getdoc(function), inspect.getdoc(owner) if owner else ""]))


def raises(function):
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    kinds = {ast.unparse(node.exc.func) for node in ast.walk(tree)
             if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)}  # fmt: skip
    return kinds - {"NotImplementedError", "TypeError"}  # of a protocol's own constructor


CALLABLES = [(label, function, owner) for names in NAMES for label, function, owner in list_callables(*names)]
LABELS = [label for label, _, _ in CALLABLES]


@pytest.mark.parametrize("package", PAGES)
def test_every_exported_name_is_in_the_reference(package):
    shown = re.findall(rf"^::: {re.escape(package)}\.(\w+)$", (DOCS / PAGES[package]).read_text("utf-8"), re.M)
    assert shown == [name for owner, name in EXPORTED if owner == package]


@pytest.mark.parametrize("page", MORE)
def test_what_the_guides_import_is_in_the_reference(page):
    shown = re.findall(r"^::: (\S+)$", (DOCS / page).read_text("utf-8"), re.M)
    assert [name for name in shown if name.rpartition(".")[0] not in PAGES] == [".".join(each) for each in MORE[page]]


def test_no_page_shows_a_name_that_is_not_checked():
    shown = re.findall(r"^::: (\S+)$", "\n".join(path.read_text("utf-8") for path in DOCS.glob("*.md")), re.M)
    assert sorted(shown) == sorted(".".join(each) for each in NAMES)


def test_there_is_a_first_sentence_everywhere():
    documented = [label for label, function, _ in CALLABLES if "__init__" in label or inspect.getdoc(function)]
    assert documented == LABELS
    for package, name in NAMES:
        assert inspect.getdoc(getattr(importlib.import_module(package), name)), name


def test_arrays_have_shapes_or_types():
    about_arrays = [
        (label, docs_of(function, owner)) for label, function, owner in CALLABLES
        if ARRAYS.search(str(inspect.signature(function)))
    ]  # fmt: skip
    assert len(about_arrays) > 20
    assert [label for label, text in about_arrays if not SHAPES.search(text)] == []


def test_what_is_raised_is_listed():
    raising = [(label, raises(function), docs_of(function, owner)) for label, function, owner in CALLABLES]
    assert len([label for label, kinds, _ in raising if kinds]) > 5
    assert [(label, kinds) for label, kinds, text in raising if kinds and not re.search(r"[Rr]aises", text)] == []


def test_times_and_sizes_have_units():
    missing = []
    for label, function, owner in CALLABLES:
        for parameter in inspect.signature(function).parameters:
            unit = UNITS.get(parameter.rpartition("_")[2])
            if unit and not re.search(unit, docs_of(function, owner)):
                missing.append(f"{label}: {parameter}")
    assert missing == []
