"""What a column of a hospital's table looks like."""

import pytest

from fedhealth.data.column_profile import ColumnGuess, profile_column


@pytest.mark.parametrize(
    ("name", "cells", "guess"),
    [
        ("Station", ["", " "], ColumnGuess.empty),
        ("CRP", ["1,5", "20", "7,25", "8", "9", "13"], ColumnGuess.number),
        ("CRP", ["1.5 mg/l", "20 mg/l", "3 mg/l"], ColumnGuess.number),
        ("Aufnahme", ["01.02.2024", "3.4.2023", ""], ColumnGuess.date),
        ("schwer", ["ja", "nein", "ja", "nein", "ja", "nein"], ColumnGuess.words),
        ("severe", ["0", "1", "1", "0", "1", "0"], ColumnGuess.words),
        ("Befund", ["Lungen beidseits frei, kein Erguss sichtbar heute."], ColumnGuess.report),
        ("Nachname", ["Gruen", "Blau", "Weiss"], ColumnGuess.person),
        ("PatNr", ["A-1", "A-2", "A-3"], ColumnGuess.other),
    ],
)
def test_the_kind_of_a_column(name, cells, guess):
    assert profile_column(name, cells).guess is guess


def test_codes_and_typing_errors_are_shown():
    assert profile_column("crp", ["4.1", "5.0", "6.2", "9999", "9999", "5.5"]).codes == ("9999",)
    found = profile_column("crp", ["4.1", "5.0", "6.2", "5.5", "6000"])
    assert any("100 times the median" in warning for warning in found.warnings)
    assert profile_column("leukocytes", ["9", "99", "99", "101", "140"]).codes == ()


def test_a_decimal_comma_beside_a_point_is_shown():
    found = profile_column("crp", ["4.1", "5,0", "6,2"])
    assert (found.decimal, "some numbers have a decimal comma, others a point" in found.warnings) == ("both", True)


def test_rare_words_are_not_shown():
    found = profile_column("ward", ["A"] * 6 + ["B"] * 5 + ["K. Example"] * 2)
    assert (found.levels, found.rare) == (("A", "B"), 1)
    assert "Example" not in repr(found)


def test_identifiers_rounded_by_a_spreadsheet_are_shown():
    assert any("rounded" in warning for warning in profile_column("Fall", ["1.23E+15", "A7"]).warnings)
