"""Wherever a person reads an epsilon of a private run, its delta is in the same sentence or table row."""

import json
import re
from html.parser import HTMLParser

import pytest

from fedhealth.cli.compare import run_compare
from fedhealth.cli.site import budget
from fedhealth.cli.site_run import run_status
from fedhealth.config.warnings import warn_weak_privacy
from fedhealth.export.model_card import build_model_card
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.privacy.accounting.privacy_target import PrivacyTarget, save_target
from fedhealth.report.descriptive_page import build_descriptive_page
from fedhealth.report.render import render_page, render_run_report
from fedhealth.runs.load_record import load_run_record

NUMBER = re.compile(r"epsilon\b[^.;:]{0,25}?\s\d|\d\s*epsilon", re.I)
BLOCKS = ("p", "li", "tr", "h1", "h2", "h3", "desc", "title", "figcaption", "summary", "dd", "caption")


class Blocks(HTMLParser):
    """Collects the text of every block of a page; a table row includes the names of its columns."""

    def __init__(self):
        super().__init__()
        self.found, self._skipped = [""], 0

    def handle_starttag(self, tag, attributes):
        self._skipped += tag in ("style", "pre")
        if tag in BLOCKS:
            self.found.append("")
        self.found[-1] += f" {dict(attributes).get('data-label') or ''} "

    def handle_endtag(self, tag):
        self._skipped -= tag in ("style", "pre")
        if tag in BLOCKS:
            self.found.append("")

    def handle_data(self, data):
        self.found[-1] += "" if self._skipped else data


def read_page(html):
    parser = Blocks()
    parser.feed(html)
    return [sentence for block in parser.found for sentence in split_sentences(block)]


def split_sentences(text):
    return re.split(r"(?<=[a-z0-9)])[.!?]\s+(?=[A-Z])", " ".join(text.split()))


def find_bare(sentences):
    return [each for each in sentences if NUMBER.search(each) and "delta" not in each.lower()]


@pytest.fixture
def private(run):
    """A private run that warns of everything: a large epsilon, a lifetime budget nearly spent, an audit."""
    run.make_private(epsilon=12.0)
    run.config = run.config.replace(
        "unit: patient", "unit: patient, lifetime_epsilon: 13, spare_rounds: 1, delta: 1.0e-6"
    )
    run.info["state"] = "stopped"
    folder = run.write()
    (folder / "audit.json").write_text(json.dumps({"lines": ["A: claimed epsilon 12 at delta 1e-6, bound 1.1 (95 %)"]}))
    site = folder / "sites" / "A"
    with Ledger.open(get_ledger_path(site, "chest")) as ledger:
        ledger.book("0a1b2c", 1, "patient", PrivacyEvent(0.6, 0.5, 6), EpsilonLimits(1e-6))
    save_target(site, PrivacyTarget("0a1b2c", "patient", 12.0, 1e-6, 0.6, 3))
    return folder


def test_the_walk_finds_a_bare_epsilon():
    assert find_bare(["Epsilon 12 gives little protection"])
    assert find_bare(["the largest epsilon that a hospital spent is 3.2"])
    assert find_bare(read_page("<p>At delta 1e-6. It spent epsilon 3</p>")) == ["It spent epsilon 3"]
    assert find_bare(read_page('<tr><td data-label="Epsilon">8</td></tr>'))
    assert not find_bare(read_page('<tr><td data-label="Epsilon">8</td><td data-label="Delta">1e-6</td></tr>'))


def test_the_report_the_card_and_the_statistics(private):
    record = load_run_record(private)
    pages = [render_run_report(private), render_page(lambda: build_descriptive_page([], record))]
    sentences = [each for page in pages for each in read_page(page)]
    assert sum(bool(NUMBER.search(each)) for each in sentences) >= 8
    assert find_bare(sentences) == []
    card = [each for line in build_model_card(private).splitlines() for each in split_sentences(line)]
    assert sum(bool(NUMBER.search(each)) for each in card) >= 3
    assert find_bare(card) == []


def test_the_commands_and_the_warnings(private, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    run_compare([private], tmp_path)
    budget(private, None, verify=True)
    home = tmp_path / "home"
    home.mkdir()
    (private / "sites" / "A").rename(home / "state")
    run_status(home, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert sum(bool(NUMBER.search(line)) for line in lines) >= 3
    assert find_bare(lines) == []
    assert all("Delta" in line for line in lines if "Epsilon" in line)  # the heads of tables
    assert find_bare(read_page((tmp_path / "compare.html").read_text())) == []
    [(title, _)] = warn_weak_privacy({"privacy": {"epsilon": 12, "delta": 1e-6, "unit": "record"}})
    assert title == "Epsilon 12 at delta 1e-6 promises each study little"
