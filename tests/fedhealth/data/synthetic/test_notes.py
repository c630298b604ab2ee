import numpy as np
import pytest

from fedhealth.data.synthetic.notes import write_note

STYLES = ("prose", "telegram", "sections")


def notes(style, b, count=200):
    rng = np.random.default_rng(1)
    return [write_note(rng, style, b, 60, "F") for _ in range(count)]


@pytest.mark.parametrize("style", STYLES)
def test_the_factor_sets_the_wording(style):
    low, high = " ".join(notes(style, -1.5)).split(), " ".join(notes(style, 1.5)).split()
    assert low.count("no") + low.count("denies") > 5 * (high.count("no") + high.count("denies") + 1)
    assert high.count("severe") > 5 * (low.count("severe") + 1)


@pytest.mark.parametrize("style", STYLES)
def test_notes_are_varied(style):
    assert len(set(notes(style, 0.0))) > 190


def test_styles_differ():
    assert "IMPRESSION:" in notes("sections", 0.0)[0]
    lengths = {style: np.mean([len(note) for note in notes(style, 0.0)]) for style in STYLES}
    assert lengths["prose"] > 1.3 * lengths["telegram"]
