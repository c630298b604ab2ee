"""The report judges the noise of all opened sums, also of a run whose hospitals audit themselves."""

import json

import numpy as np

from fedhealth.privacy.auditing.blank_values import measure_blanks
from fedhealth.report.audit_section import build_audit_section
from fedhealth.runs.load_record import load_run_record


def write_sums(run, owners, rounds=20):
    """Write a run with sums of four hospitals, of which `owners` add their share."""
    folder, generator = run.write(), np.random.default_rng(0)
    with (folder / "events.jsonl").open("a") as log:
        for number in range(1, rounds + 1):
            values = generator.normal(0.0, 1.0, (owners, 256)).sum(0)
            blanks = {"shared": vars(measure_blanks(values, 4, 1.0, 2.0**-5))}
            log.write(json.dumps({"time": 0.0, "event": "noise_measured", "round": number, "blanks": blanks}) + "\n")
    return load_run_record(folder)


def test_a_sum_that_is_measured_again_after_a_restart_counts_once(run):
    folder = run.write()
    blanks = [{"shared": {"count": 256, "total": total, "squares": 256.0, "beyond": 1}} for total in (1.0, 2.0)]
    with (folder / "events.jsonl").open("a") as log:
        for number, each in ((1, blanks[0]), (2, blanks[0]), (2, blanks[0]), (2, blanks[1])):
            log.write(json.dumps({"time": 0.0, "event": "noise_measured", "round": number, "blanks": each}) + "\n")
    assert load_run_record(folder).opened_noise["shared"].count == 3 * 256


def test_right_noise_is_said_with_its_size(run):
    record = write_sums(run, owners=4)
    assert record.opened_noise["shared"].count == 20 * 256
    section = build_audit_section(record)
    assert "The noise of the opened sums is as promised" in section.lead
    assert "5,120\N{NO-BREAK SPACE}blank values" in section.lead
    assert not section.tables
    assert "no patient contributes" in section.notes[0]


def test_a_missing_share_is_said_first(run):
    section = build_audit_section(write_sums(run, owners=3))
    assert section.lead.startswith("The noise of the opened sums is NOT as promised")
    assert "only the local epsilon holds" in section.lead


def test_a_run_without_shared_noise_and_audit_has_no_section(run):
    assert build_audit_section(load_run_record(run.write())) is None
