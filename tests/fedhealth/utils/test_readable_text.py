"""Texts of other people: no character that shows nothing."""

import unicodedata

import pytest

from fedhealth.utils.readable_text import is_paragraph, is_readable, is_visible, iter_texts

BLANK = [
    "\u3164", "\u2800", "\u115f", "\u1160", "\uffa0", "\ufe0f", "\U000e0100", "\u034f", "\u17b4", "\u180b", "\u200b",
    "\u202e", "\u00a0", "\u2028", "\x1b", "\ufeff", "\U000e0041", "\ufffc",
]  # fmt: skip


@pytest.mark.parametrize("blank", BLANK, ids=lambda text: f"U+{ord(text):04X}")
def test_a_character_that_shows_nothing_is_not_readable(blank):
    assert not is_visible(blank)
    assert not is_readable(f"a{blank}b")
    assert not is_paragraph(f"a title{blank}", 100)


def test_letters_of_all_scripts_and_plain_spaces_are_readable():
    assert is_paragraph("Entzündung: CRP über 5 mg/l, ведение пациентов, 肺炎, דלקת ריאות", 100)
    for code in range(0x20, 0x3000):  # letters, digits and signs that Unicode does not call ignorable
        character = chr(code)
        if unicodedata.category(character)[0] in "LNPS" and character not in "\u115f\u1160\u2800":
            assert is_visible(character)


@pytest.mark.parametrize("text", ["", " ", "-", "a  b", " a", "a ", "a" * 101, "...", "a\nb"])
def test_a_paragraph_has_words_and_no_gap(text):
    assert not is_paragraph(text, 100)


def test_every_text_in_a_value_is_found():
    assert list(iter_texts({"a": ["b", ("c", 1, None)], "d": {"e": "f"}})) == ["a", "b", "c", "d", "e", "f"]
