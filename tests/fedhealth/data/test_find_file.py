import os

import pytest

from fedhealth.data.find_file import find_file


@pytest.mark.parametrize("name", ["a/Müller.PNG", "a\\Müller.png", "A/mu\u0308ller.png", "./a/Müller.png"])
def test_other_spellings_of_a_name(tmp_path, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Müller.png").write_text("x")
    assert find_file(tmp_path, name) == tmp_path / "a" / "Müller.png"


def test_a_name_on_disk_that_is_not_utf_8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.png")
    with open(path, "w") as file:  # noqa: PTH123 - a name that pathlib prints differently
        file.write("x")
    assert find_file(tmp_path, "Müller.png") is not None


def test_an_ambiguous_name_is_not_guessed(tmp_path):
    for name in ("A.png", "a.PNG"):
        (tmp_path / name).write_text("x")
    assert find_file(tmp_path, "a.png") is None
    assert find_file(tmp_path, "A.png") == tmp_path / "A.png"
    assert find_file(tmp_path, "none.png") is None
