"""What docs/secure-aggregation.md states in numbers is what the code computes."""

from pathlib import Path

from fedhealth.secagg.client import contributor_book, journal_rules, vector_rules
from fedhealth.secagg.protocol import history, rules
from fedhealth.secagg.protocol.threshold import (
    ThresholdPolicy,
    compute_smallest_split,
    compute_thresholds,
    needs_signatures,
)

PAGE = Path(__file__).parents[3] / "docs" / "secure-aggregation.md"


def test_the_table_of_thresholds():
    table = PAGE.read_text().split("<!-- table: threshold -->")[1].split("\n\n")[0].strip().splitlines()
    assert len(table) > 10
    for row in table[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        thresholds = compute_thresholds(int(cells[0]), ThresholdPolicy())
        n, t, c = thresholds.n, thresholds.threshold, thresholds.colluders
        numbers = (n, c, thresholds.min_honest, t, n - t, compute_smallest_split(n, t, c), t - c)
        assert cells == [*map(str, numbers), "yes" if needs_signatures(thresholds, n, ()) else "no"]


def test_every_rule_is_listed_and_has_its_function():
    listed = {line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if line.startswith("| R")}
    functions = {
        name.split("_")[0].upper()
        for name in [*vars(rules), *vars(journal_rules), *vars(vector_rules)]
        if name[0] == "r" and name[1].isdigit()
    }
    assert '"R11"' in Path(contributor_book.__file__).read_text()
    assert listed == functions | {"R11", history.RULE} == {f"R{i}" for i in range(1, 13)}
