"""The table of impossible pairs in the docs is the validator's own."""

from pathlib import Path

from fedhealth.config.incompatibilities import INCOMPATIBILITIES

PAGE = Path(__file__).parents[3] / "docs" / "personalization.md"


def test_the_documented_table_is_the_one_that_is_checked():
    table = PAGE.read_text("utf-8").split("<!-- table: pairs -->\n")[1].split("\n\n")[0].splitlines()
    assert table[2:] == [
        f"| {pair.first} | {pair.second} | {pair.reason} | {pair.advice} |" for pair in INCOMPATIBILITIES
    ]


def test_every_personalization_is_in_the_guide():
    text = PAGE.read_text("utf-8")
    methods = {path.stem for path in (PAGE.parents[1] / "conf" / "personalization").glob("*.yaml")}
    assert not [name for name in methods if f"personalization={name}" not in text and f"method={name}" not in text]
