"""Names that a stranger finds: the field's terms, verbs for functions, one name for one thing."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fedhealth", "strategies", "clients")
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
IRREGULAR = set(re.split(r"\s", "told held kept said sent seen drawn given taken made done found known bound shown"))
NOT_PARTICIPLES = set(
    re.split(r"\s", "seed embed feed open listen shorten need exceed proceed speed token string padding screen")
)

# A public class name in two modules, or a public function name in more than two, and why that is right.
SHARED_NAMES: dict[str, str] = {}

# What somebody types into a search box, and a file that does it.
SEARCHES = {
    "retry": "fedhealth/site/daemon.py",
    "reconnect": "fedhealth/site/daemon.py",
    "backoff": "fedhealth/site/daemon.py",
    "hyperparameter": "fedhealth/experiment/sweep_search.py",
    "redeliver": "fedhealth/flower/server/message_redelivery.py",
    "health check": "fedhealth/site/check/check_site.py",
    "client update": "clients/update_clipping.py",
    "loss": "fedhealth/training/losses.py",
    "deadline": "strategies/deadlines.py",
    "clipping": "fedhealth/privacy/mechanisms/clipping.py",
    "checkpoint": "strategies/checkpoint.py",
    "signed job": "fedhealth/consortium/signed_job.py",
}


def functions():
    """Yield (file, function, whether it stands at module level) for every function and method that has a free name."""
    for name, tree in TREES.items():
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
                yield name, node, id(node) in top


def is_bare_participle(name):
    word = name.strip("_")
    if "_" in word or word in NOT_PARTICIPLES:
        return False
    return word in IRREGULAR or re.search(r"(ed|ing|en)$", word) is not None


def definitions(kinds):
    """Return {public name: files} of what modules define at their top level."""
    found = defaultdict(set)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                found[node.name].add(name)
    return found


def test_no_class_name_means_two_things():
    double = {name: files for name, files in definitions(ast.ClassDef).items() if len(files) > 1}
    assert {name: sorted(files) for name, files in double.items() if name not in SHARED_NAMES} == {}


def test_no_function_name_means_three_things():
    many = {name: files for name, files in definitions(ast.FunctionDef).items() if len(files) > 2}
    assert {name: sorted(files) for name, files in many.items() if name not in SHARED_NAMES} == {}


def test_every_exception_is_needed():
    classes, names = definitions(ast.ClassDef), definitions(ast.FunctionDef)
    assert [name for name in SHARED_NAMES if len(classes[name]) < 2 and len(names[name]) < 3] == []


def test_functions_are_not_bare_participles():
    every = list(functions())
    bare = [f"{file}:{node.lineno} {node.name}" for file, node, _ in every if is_bare_participle(node.name)]
    assert len(bare) < 0.01 * len(every), bare


def test_most_functions_say_what_they_do_to_what():
    top = [node.name for _, node, is_top in functions() if is_top]
    assert len([name for name in top if "_" not in name.strip("_")]) <= 0.25 * len(top)


@pytest.mark.parametrize(("words", "file"), SEARCHES.items())
def test_a_search_finds_the_place(words, file):
    text = (ROOT / file).read_text("utf-8").lower()
    assert re.search(words.replace(" ", r"[ _-]?"), text) or words.replace(" ", "_") in file
