import pytest

from fedhealth.errors import ConfigError
from fedhealth.ingest.settings import load_ingest_settings

PLAIN = "site: charite\ndata: demo\nsource: {_target_: fedhealth.ingest.source.Folder, root: x}\n"


def load(folder, text):
    file = folder / "ingest.yaml"
    file.write_text(text)
    return load_ingest_settings(file)


def test_what_is_left_out_has_a_default(tmp_path):
    settings = load(tmp_path, PLAIN)
    assert (settings.image.bits, settings.image.spacing, settings.limits.seconds) == (8, None, 60.0)
    assert [rule.take for rule in settings.select] == ["middle"]
    assert settings.text.deidentify


def test_all_faults_are_named_at_once(tmp_path):
    text = """site: Charite Berlin
data: demo
source: folder
tables: [{path: a.csv, keys: {surname: x}, columns: {}}, {path: b.csv, keys: {}, columns: {}}]
select: [{take: first}, {stack: study, count: 0}]
image: {bits: 12, spacing: 0}
text: {sections: [epilogue]}
limits: {seconds: 0}
"""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    for named in ("site:", "source:", "keys.surname", "tables[1]", "select[0].take", "select[1].stack", "count:"):
        assert named in caught.value.problem
    for named in ("image.bits", "image.spacing", "epilogue", "limits:"):
        assert named in caught.value.problem


def test_a_misspelt_key_is_a_fault(tmp_path):
    with pytest.raises(ConfigError, match="max_rejectd"):
        load(tmp_path, PLAIN + "max_rejectd: 1\n")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{keys: {patient: p}, columns: {text: t}}", "needs either path or source"),
        ("{path: a.csv, source: {_target_: x}, keys: {patient: p}, columns: {text: t}}", "needs either path or source"),
        ("{source: {url: x}, keys: {patient: p}, columns: {text: t}}", "source: needs a _target_"),
        ("{path: a.csv, keys: {patient: p}}", "columns: is missing"),
        ("{path: a.csv, columns: {text: t}}", "keys: must name at least one column"),
    ],
)
def test_a_table_is_a_file_or_a_source(tmp_path, table, said):
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, f"{PLAIN}tables: [{table}]\n")
    assert load(tmp_path, f"{PLAIN}tables: [{{path: a.csv, keys: {{file: f, patient: p}}}}]\n").tables[0].source is None
