"""Fixtures for the tests of the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedhealth.data.findings import DataFinding, FindingKind, dump_findings
from tests.fedhealth.run_writer import RunWriter
from tests.savings import draw_charts


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return RunWriter(tmp_path / "run")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunWriter, str]:
    """Return a run with every kind of content, and its report with all charts."""
    from fedhealth.report.render import render_run_report

    run = RunWriter(tmp_path_factory.mktemp("whole") / "run")
    run.failed = {("A", 2)}
    run.rejected = {"A": ["broken.dcm: not a DICOM file"]}
    long = "a_word_that_does_not_end_before_the_margin_" * 3
    run.findings = {"A": dump_findings([DataFinding(FindingKind.values, long)])}
    gains = {"alone A": 0.1, "alone, on average": 0.05, "centralised": -0.01, "image only": 0.2}
    run.comparison = run.compared(gains)
    with draw_charts():
        return run, render_run_report(run.write())


@pytest.fixture
def notices_of(run: RunWriter) -> Callable[[], dict[str, str]]:
    """Return a function that writes the run and returns the text of each notice, by title."""
    from fedhealth.report.notices import collect_notices
    from fedhealth.runs.load_record import load_run_record

    return lambda: {notice.title: notice.text for notice in collect_notices(load_run_record(run.write()))}
