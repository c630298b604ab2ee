"""Proposed settings: what can be found out is there, what cannot is refused until a person decides."""

import jsonschema
import pytest
import yaml

from fedhealth.cli.ingest import compose_data_config
from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.propose import propose_settings
from fedhealth.ingest.settings import IngestSettings, load_ingest_settings
from fedhealth.utils.json_schema import build_schema
from tests.fedhealth.ingest.hospital import Hospital, write_csv

DATA = compose_data_config(IngestSettings("charite", "demo", {}), "/nowhere", ())


@pytest.fixture(scope="module", name="hospital")
def hospital_(tmp_path_factory):
    hospital = Hospital(tmp_path_factory.mktemp("charite"), patients=30)
    numbers = [f"{1000 + number}" for number in range(30)]
    rows = [(f"kh-{number}", "ja" if int(number) % 2 else "nein", f"{number},5", "M") for number in numbers]
    write_csv(hospital.folder / "labor.csv", [("Fall", "schwer", "CRP [mg/dl]", "Sex"), *rows], delimiter=";")
    (hospital.images / "notes.pdf").write_bytes(b"%PDF-1.4")
    return hospital


@pytest.fixture(scope="module", name="text")
def text_(hospital):
    tables = [hospital.folder / "reports.csv", hospital.folder / "labor.csv"]
    return propose_settings("charite", None, hospital.images, tables, DATA)


def test_keys_reports_names_and_spelling_are_found(hospital, text):
    assert "keys: {patient: PatientNr}" in text
    assert "columns: {text: Befund}" in text
    assert "names: [Nachname]" in text
    assert "identifiers: {rules: [case]}" in text
    assert 'columns: {sex: Sex, crp: "CRP [mg/dl]", label: schwer}' in text
    assert 'decimal: ","' in text
    assert "# 30 images in 31 files (all were read)." in text
    assert "- {modality: [DX]}" in text
    assert "UNDECIDED ldh: no column was found for this variable" in text


def test_no_value_of_few_people_is_in_it(text):
    assert "Mueller" not in text
    assert "kh-1000" not in text.casefold()


def test_undecided_settings_are_refused_and_the_edited_ones_work(hospital, text, tmp_path):
    file = tmp_path / "ingest.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"tables\[1\].words: replace every \?\?\?"):
        load_ingest_settings(file)
    words = text.replace('ja: "???"', "ja: severe").replace('nein: "???"', "nein: stable")
    file.write_text(words, "utf-8")
    with pytest.raises(ConfigError, match=r"tables\[1\].units"):
        load_ingest_settings(file)
    file.write_text(words.replace('units: {crp: "???"}', "units: {}"), "utf-8")
    settings = load_ingest_settings(file)
    assert settings.tables[1].words == {"label": {"ja": "severe", "nein": "stable"}}
    assert settings.identifiers.rules == ("case",)
    assert text.startswith("# yaml-language-server: $schema=ingest.schema.json\n")
    jsonschema.validate(yaml.safe_load(file.read_text("utf-8")), build_schema(IngestSettings))


def test_a_table_without_a_key_is_undecided(hospital, tmp_path):
    other = write_csv(tmp_path / "other.csv", [("a", "b"), ("1", "x"), ("2", "y")])
    text = propose_settings(None, None, hospital.images, [other], DATA)
    assert 'keys: {patient: "???"}' in text
    file = tmp_path / "ingest.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="site: replace") as found:
        load_ingest_settings(file)
    assert "tables[0].keys" in str(found.value)


def test_a_folder_without_files_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no file"):
        propose_settings(None, None, tmp_path, [], DATA)


def test_words_that_mean_no_class_are_refused(hospital, tmp_path):
    hospital.file.write_text(
        hospital.file.read_text().replace("crp: crp}", "crp: crp}\n    words: {label: {ja: sever}}"), "utf-8"
    )
    with pytest.raises(DataError, match="'sever', which is no class"):
        hospital.ingest(tmp_path / "cohort")
