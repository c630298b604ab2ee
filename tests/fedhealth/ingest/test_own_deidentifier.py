"""A hospital's own de-identification: screened before files are read, and never trusted with an error's words."""

import sys

import pytest

from fedhealth.errors import ConfigError
from fedhealth.ingest import own_deidentifier
from fedhealth.ingest.own_deidentifier import screen_deidentifier
from fedhealth.ingest.report_text import clean_report
from fedhealth.ingest.settings import TextSettings

GOOD = """
def clean(report, names):
    for name in (*names, "14.03.1957", "0551 4479203", "MRN88412097"):
        report = report.replace(name, "[x]")
    return report
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with a function `clean`, as the entry point `ours`."""

    def write(code, value="own_words:clean", folder="own_words-1.2.dist-info"):
        (tmp_path / "own_words.py").write_text(code)
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-words\nVersion: 1.2\n")
        (tmp_path / folder / "entry_points.txt").write_text(f"[fedhealth.deidentifiers]\nours = {value}\n")

    monkeypatch.syspath_prepend(tmp_path)
    own_deidentifier.load_deidentifier.cache_clear()
    yield write
    own_deidentifier.load_deidentifier.cache_clear()
    sys.modules.pop("own_words", None)


def test_a_good_function_passes_and_its_package_is_named(install):
    install(GOOD)
    assert screen_deidentifier("ours", is_alone=True) == "own-words 1.2"
    text = TextSettings(deidentifier="ours")
    assert clean_report("Okafor on 12.03.2021", text, ["Okafor"]) == "[x] on _"  # our patterns follow
    alone = TextSettings(deidentifier="ours", deidentify=False)
    assert clean_report("Okafor on 12.03.2021", alone, ["Okafor"]) == "[x] on 12.03.2021"
    assert clean_report("", text) == ""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def clean(report, names): return report", "leaves Quillfeather, Ottilie, 14.03.1957"),
        ("def clean(report, names): return ''", "removes findings that identify nobody"),
        ("def clean(report, names): return None", "returned NoneType, not a text"),
        ("def clean(report, names): return report[:5] + '\\ufffd'", "damaged characters"),
        ("def clean(report, names): return report + '\\udcff'", "damaged characters"),
        ("def clean(report, names): raise KeyError(report)", "fails on a report .KeyError."),
        ("def clean(report): return report", "fails on a report .TypeError."),
        ("import absent_package\ndef clean(report, names): return report", "cannot be imported"),
        ("clean = 'words'", "is no function"),
        ("calls = []\ndef clean(report, names): calls.append(1); return f'effusion {len(calls)}'", "another text"),
    ],
)
def test_a_bad_function_is_refused_and_no_word_of_the_report_is_repeated(install, code, said):
    install(code)
    with pytest.raises(ConfigError, match=said) as refused:
        screen_deidentifier("ours", is_alone=True)
    assert "There is a small effusion" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_with_our_patterns_after_it_a_function_may_leave_names(install):
    install("def clean(report, names): return report")
    assert screen_deidentifier("ours", is_alone=False) == "own-words 1.2"


def test_a_failure_on_a_real_report_repeats_nothing_of_it(install):
    install("def clean(report, names): raise ValueError(report)")
    with pytest.raises(ConfigError, match=r"fails on a report \(ValueError\)") as failed:
        clean_report("Okafor has it", TextSettings(deidentifier="ours"))
    assert "Okafor" not in str(failed.value)


def test_a_function_that_nobody_installed_or_two_packages_offer(install):
    with pytest.raises(ConfigError, match="no installed package has an entry point 'theirs'"):
        screen_deidentifier("theirs", is_alone=False)
    install(GOOD)
    install(GOOD, folder="other_words-1.0.dist-info")
    with pytest.raises(ConfigError, match="several installed packages have"):
        screen_deidentifier("ours", is_alone=False)
