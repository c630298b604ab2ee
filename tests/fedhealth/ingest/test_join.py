from fedhealth.data.identifiers import Identifier, hash_identifier
from fedhealth.ingest.header import HeaderFields
from fedhealth.ingest.join import identify_images, join_tables
from fedhealth.ingest.records import IngestRecord, StoredImage
from fedhealth.ingest.tables import TableRows


def facts(patient="p", study="s", accession="a", instance="i"):
    return HeaderFields(
        patient,
        "",
        study,
        accession,
        "",
        "r",
        instance,
        "CT",
        "",
        "",
        "",
        "image",
        "",
        8,
        8,
        1,
        None,
        "",
        None,
        "",
        False,
        False,
    )


def image(name, slot, **keys):
    return IngestRecord(name, "", facts(**keys), 0, "", "", (StoredImage("", slot, ""),))


def table(keys, cells):
    found = {key: [Identifier(code, "") for code in codes] for key, codes in keys.items()}
    return TableRows("t.csv", "utf-8", keys, found, cells, list(range(2, 2 + len(next(iter(keys.values()))))))


def find_unidentified(images, tables):
    return [name for name, keys in identify_images(images, tables, {}).items() if not keys["patient"]]


def cells(found):
    return [(row.slot, row.cells) for row in found.rows]


def test_the_finest_key_decides():
    images = [image("1", 0, accession="a"), image("2", 1, accession="b")]
    reports = table({"accession": ["a", "b"], "patient": ["p", "p"]}, {"text": ["one", "two"]})
    labels = table({"patient": ["p"]}, {"label": ["1"]})
    found = join_tables(images, [labels, reports], {})
    assert cells(found) == [(0, {"label": "1", "text": "one"}), (1, {"label": "1", "text": "two"})]
    assert (found.matched, found.unmatched) == ([2, 2], [0, 0])


def test_a_file_can_be_a_key():
    found = join_tables(
        [image("x/1.dcm", 0)], [table({"file": [hash_identifier("file", "x/1.dcm")]}, {"label": ["0"]})], {}
    )
    assert cells(found) == [(0, {"label": "0"})]


def test_rows_without_image():
    reports = table({"accession": ["a", "z", "y"], "patient": ["p", "q", ""]}, {"text": ["one", "two", "three"]})
    labels = table({"patient": ["q", "u"]}, {"label": ["1", "0"]})
    found = join_tables([image("1", 0)], [labels, reports], {})
    assert cells(found) == [(0, {"text": "one"}), (None, {"label": "1", "text": "two"}), (None, {"label": "0"})]
    assert [row.study for row in found.rows] == ["s", "z", "u"]
    assert found.unmatched == [0, 1]


def test_contradictions_leave_a_cell_empty_and_are_counted():
    one = table({"patient": ["p", "p"]}, {"label": ["0", "1"], "crp": ["5", "5"]})
    found = join_tables([image("1", 0)], [one], {})
    assert cells(found) == [(0, {"label": "", "crp": "5"})]
    assert found.contradictions == {"label": 1}
    two = table({"patient": ["p"]}, {"crp": ["6"], "label": ["1"]})
    found = join_tables([image("1", 0)], [one, two], {})
    assert cells(found)[0][1] == {"label": "", "crp": ""}
    three = table({"patient": ["p"]}, {"crp": ["5"]})
    assert join_tables([image("1", 0)], [three, three], {}).contradictions == {}


def test_several_reports_of_a_study_are_one_text():
    both = table({"patient": ["p", "p", "p"]}, {"text": ["one", "two", "one"]})
    assert cells(join_tables([image("1", 0)], [both], {})) == [(0, {"text": "one\ntwo"})]


def test_who_a_file_belongs_to():
    unnamed = image("1", 0, patient="")
    assert find_unidentified([unnamed], []) == ["1"]
    told = table({"accession": ["a"], "patient": ["q"]}, {})
    assert find_unidentified([unnamed], [told]) == []
    assert join_tables([unnamed], [told], {}).rows[0].keys["patient"] == "q"
    torn = table({"accession": ["a", "a"], "patient": ["q", "r"]}, {})
    assert find_unidentified([unnamed], [torn]) == ["1"]


def test_a_series_takes_the_keys_of_its_files():
    series = IngestRecord("series r 0", "", None, 0, "", "", (StoredImage("", 0, ""),))
    found = join_tables([series], [], {"series r 0": image("1", 0, patient="q")})
    assert found.rows[0].keys["patient"] == "q"
