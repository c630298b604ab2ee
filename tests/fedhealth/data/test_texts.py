from fedhealth.data.texts import find_text_findings, read_text_file, select_texts


def test_texts_that_are_none_and_damaged_ones():
    kept, reasons = select_texts(["fine", "nan", "None", " N/A ", "gro\ufffd", "a\0b"])
    assert kept == ["fine", "", "", "", "", ""]
    assert reasons == {"damaged": 2}
    (finding,) = find_text_findings("t.csv", reasons)
    assert "2 text(s) are set aside" in finding.text
    assert finding.serious
    assert not [*find_text_findings("t.csv", {})]


def test_files_of_texts(tmp_path):
    for name, content in {
        "a": "normal große Lunge".encode("cp1252"),
        "b": "Größe".encode("utf-16"),
        "c": b"%PDF-1.7",
        "d": b"normal lung \x81 findings",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert read_text_file(tmp_path / "a") == ("normal große Lunge", "")
    assert read_text_file(tmp_path / "b") == ("Größe", "")
    assert read_text_file(tmp_path / "c") == ("", "a PDF")
    assert select_texts([read_text_file(tmp_path / "d")[0]])[0] == [""]
