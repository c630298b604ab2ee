"""A proposed description of a manifest: nothing computed from patients, nothing guessed silently."""

import yaml

from fedhealth.data.propose_description import propose_description
from fedhealth.data.read_table import read_table
from tests.fedhealth.ingest.hospital import write_csv


def test_a_manifest_is_described(tmp_path):
    rows = [
        (f"P{number}", f"images/{number}.png", "severe" if number % 2 else "mild", f"{20 + number}.25", "9999", "F")
        for number in range(40)
    ]
    rows[7] = (*rows[7][:4], "9", "X")
    header = ("patient_id", "image", "severity_class", "age", "spo2", "sex")
    text = propose_description(read_table(write_csv(tmp_path / "m.csv", [header, *rows])), "ward")
    found = yaml.safe_load(text)
    assert found["name"] == "ward"
    assert found["columns"] == {"patient": "patient_id", "image": "image", "labels": ["severity_class"]}
    assert found["task"] == {"kind": "binary", "classes": ["mild", "severe"]}
    assert found["tabular"]["age"] == {"center": "???", "scale": "???"}
    assert found["tabular"]["sex"]["levels"] == ["F"]
    assert "UNDECIDED: 1 more word(s)" in text
    assert "39.25" not in text


def test_what_is_unclear_is_left_to_a_person(tmp_path):
    text = propose_description(read_table(write_csv(tmp_path / "m.csv", [("a", "b"), ("1", "2")])), "no")
    found = yaml.safe_load(text)
    assert (found["name"], found["columns"]["patient"], found["columns"]["labels"]) == ("no", "???", ["???"])
