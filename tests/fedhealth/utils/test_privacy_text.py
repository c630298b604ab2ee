import ast
import math
import re
from pathlib import Path

import pytest

from fedhealth.site import decline_reasons
from fedhealth.utils.privacy_text import describe_privacy, format_delta, format_epsilon, format_guarantee, format_unit

ROOT = Path(__file__).resolve().parents[3]
NUMBER = re.compile(r"epsilon\W{0,3}(of )?(\{|\d)", re.IGNORECASE)  # a number follows
INPUT = re.compile(r"privacy\.epsilon=\S+|--epsilon \S+")  # what a person types; delta has its own key and default


@pytest.mark.parametrize(("delta", "text"), [(1e-6, "1e-6"), (1e-10, "1e-10"), (0.0045, "4.5e-3"), (2.5e-5, "2.5e-5")])
def test_delta_is_short(delta, text):
    assert format_delta(delta) == text


def test_a_guarantee_is_one_sentence():
    text = "epsilon 7.98 at delta 1e-6 for each patient, noise multiplier 2.53"
    assert format_guarantee(7.979, 1e-6, 2.5311, "patient") == text
    assert format_epsilon(7.979, 1e-6, digits=4) == "epsilon 7.979 at delta 1e-6"


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"epsilon": 8.0, "delta": 1e-6, "unit": "patient"}, "epsilon 8 at delta 1e-6 for each patient"),
        ({"epsilon": 3.0, "delta": 1e-6}, "epsilon 3 at delta 1e-6 for each hospital"),
        ({"epsilon": None, "noise_multiplier": 2.5, "unit": "record"}, "noise multiplier 2.5 for each study"),
    ],
)
def test_a_run_says_that_it_is_private_and_how_to_turn_it_off(section, text):
    assert describe_privacy(section) == f"{text}; `privacy=none` turns it off"


def test_what_the_lead_does_not_know_is_said():
    text = "epsilon 8 at delta chosen by each hospital for each study, noise multiplier computed by each hospital"
    assert format_guarantee(8.0, math.nan, math.nan, "record") == text


def test_units_have_the_names_of_hospitals():
    assert [format_unit(unit) for unit in ("patient", "record", "client")] == ["patient", "study", "hospital"]


def find_texts(tree):
    """Yield every text of a module, with `{}` for what is filled in."""
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def test_no_text_of_the_product_shows_an_epsilon_without_its_delta():
    modules = [
        path for room in ("fedhealth", "clients", "strategies", "scripts") for path in (ROOT / room).rglob("*.py")
    ]
    texts = [(path.name, text) for path in modules for text in find_texts(ast.parse(path.read_text("utf-8")))]
    shown = [(name, INPUT.sub("", text)) for name, text in texts]
    shown = [(name, text) for name, text in shown if NUMBER.search(text)]
    assert len(shown) > 5
    assert [each for each in shown if "delta" not in each[1]] == []


def test_no_page_of_the_documentation_shows_an_epsilon_without_its_delta():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    paragraphs = [(path.name, part) for path in pages for part in re.split(r"\n\n|\n(?=\|)", path.read_text("utf-8"))]
    shown = [(name, INPUT.sub("", part)) for name, part in paragraphs]
    shown = [(name, part) for name, part in shown if re.search(r"\bepsilon \d", part)]
    assert len(shown) > 5
    assert [each for each in shown if "delta" not in each[1]] == []


def test_a_sweep_that_is_declined_reads_delta_noise_and_unit():
    template = decline_reasons.SWEEP_EPSILON_MISMATCH
    assert template.count("epsilon {number} at delta {number}") == 2
    assert "for each {name}, noise multiplier {number}" in template
