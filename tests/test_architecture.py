"""Which room may know which, and what no module may do."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter import configuration
from importlinter.application import use_cases

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fedhealth", "strategies", "clients")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in MODULES]
RUNS_CODE = {"eval", "exec", "compile", "__import__"}  # of builtins
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_OPTIONS = {"allow_pickle", "trust_remote_code"}


configuration.configure()


def tree_of(path):
    return ast.parse(path.read_text("utf-8"), str(path))


def imported(tree):
    """Yield the dotted name of everything a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def dotted(node):
    """Return `a.b.c` for a chain of attributes, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def unsafe(tree):
    """Yield what could run code that came with data."""
    yield from (name for name in imported(tree) if name.split(".")[0] in UNSAFE_MODULES)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = dotted(call.func)
        if name in RUNS_CODE or name == "torch.load":
            yield f"{name}() in line {call.lineno}"
        for word in call.keywords:
            if word.arg in UNSAFE_OPTIONS and not (isinstance(word.value, ast.Constant) and word.value.value is False):
                yield f"{word.arg} in line {call.lineno}"
        if name in ("np.load", "numpy.load") and not any(word.arg == "allow_pickle" for word in call.keywords):
            yield f"{name}() without allow_pickle=False in line {call.lineno}"


def weak_randomness(tree):
    """Yield uses of generators that can be predicted."""
    for name in imported(tree):
        if name.split(".")[0] == "random" or name.startswith("numpy.random"):
            yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in ("np.random", "numpy.random"):
            yield f"{dotted(node)} in line {node.lineno}"


def test_the_contracts_hold():
    # import-linter reads the sources and imports nothing of ours.
    sys.path.insert(0, str(ROOT))
    try:
        passed = use_cases.lint_imports(str(ROOT / ".importlinter"), cache_dir=None, no_logo=True)
    finally:
        sys.path.remove(str(ROOT))
    assert passed == use_cases.SUCCESS


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_no_module_runs_code_that_came_with_data(path):
    assert list(unsafe(tree_of(path))) == []


@pytest.mark.parametrize("path", [path for path in MODULES if "secagg" in path.parts], ids=str)
def test_secrets_never_come_from_a_predictable_generator(path):
    assert list(weak_randomness(tree_of(path))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=flag)",
    ],
)
def test_the_search_finds_what_runs_code(source):
    assert list(unsafe(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["import random", "from numpy.random import default_rng", "np.random.default_rng(1)"]
)
def test_the_search_finds_predictable_generators(source):
    assert list(weak_randomness(ast.parse(source)))


def test_what_is_safe_is_left_alone():
    source = "torch.compile(x)\nmodel.eval()\nre.compile('x')\nnp.load('x', allow_pickle=False)\nrandom_walk = 3"
    assert list(unsafe(ast.parse(source))) == []
    assert list(weak_randomness(ast.parse(source))) == []


def test_every_file_is_one_idea():
    lengths = {name: len(path.read_text("utf-8").splitlines()) for name, path in zip(NAMES, MODULES, strict=True)}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def packages_in_a_circle():
    """Return the packages that know each other in a circle, lazy imports and imports for types included.

    A package and the packages inside it are one room: what counts is that its parts know each other in one direction.
    """
    imports = grimp.build_graph(*PACKAGES, cache_dir=None)
    package = {name: name if imports.find_children(name) else name.rpartition(".")[0] for name in imports.modules}
    graph = TopologicalSorter()
    for name in imports.modules:
        mine, others = package[name], {package[other] for other in imports.find_modules_directly_imported_by(name)}
        graph.add(
            mine,
            *(
                other
                for other in others
                if not f"{mine}.".startswith(f"{other}.") and not f"{other}.".startswith(f"{mine}.")
            ),
        )
    try:
        graph.prepare()
    except CycleError as fault:
        return list(fault.args[1])
    return []


def test_no_packages_know_each_other_in_a_circle():
    sys.path.insert(0, str(ROOT))
    try:
        assert packages_in_a_circle() == []
    finally:
        sys.path.remove(str(ROOT))


def test_what_a_fixture_changes_ends_with_its_module():
    """Without `__init__.py`, pytest takes a package for the session: a patch would reach the tests of other folders."""
    fixtures = [path for path in (ROOT / "tests").rglob("*.py") if 'scope="package"' in path.read_text("utf-8")]
    assert fixtures == [Path(__file__)]
