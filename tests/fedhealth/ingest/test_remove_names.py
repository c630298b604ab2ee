import pytest

from fedhealth.ingest.remove_names import remove_names


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("Müller", "Müllers Herz, Mueller, Muller", "_ Herz, _, _"),
        ("Mueller", "heute Müller", "heute _"),
        ("Groß", "Herr Gross", "Herr _"),
        ("Gross", "Herr Groß", "Herr _"),
        ("Andre\u0301", "Andre und André", "_ und _"),
        ("Klaus", "Klaus' Herz, Klaus's", "_ Herz, _"),
        ("Okafor, Ada", "ADA OKAFOR", "_ _"),
        ("田中", "田中さん", "_さん"),
        ("Herz", "Herzog kam", "Herzog kam"),
        ("", "nobody", "nobody"),
    ],
)
def test_spellings_of_a_name(name, text, kept):
    assert remove_names(text, [name], "_") == kept
