"""What docs/secure-aggregation.md states in numbers is what the code computes."""

import re
from pathlib import Path

from fedhealth.secagg.client import announcement_rules, contributor_book, journal_rules, vector_rules
from fedhealth.secagg.protocol import history, rules, statement
from fedhealth.secagg.protocol.threshold import (
    ThresholdPolicy,
    compute_smallest_split,
    compute_thresholds,
    needs_signatures,
)

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "secure-aggregation.md"


def test_the_table_of_thresholds():
    table = PAGE.read_text().split("<!-- table: threshold -->")[1].split("\n\n")[0].strip().splitlines()
    assert len(table) > 10
    for row in table[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        thresholds = compute_thresholds(int(cells[0]), ThresholdPolicy())
        n, t, c = thresholds.n, thresholds.threshold, thresholds.colluders
        numbers = (n, c, thresholds.min_honest, t, n - t, compute_smallest_split(n, t, c), t - c)
        assert cells == [*map(str, numbers), "yes" if needs_signatures(thresholds, n, ()) else "no"]


def test_every_row_of_the_threat_model_names_a_test_that_exists():
    """Tables of parties need none: they say what somebody can do."""
    parts = (ROOT / "docs" / "threat-model.md").read_text().split("\n\n")
    tables = [part.splitlines() for part in parts if part.startswith("|") and not part.startswith("| party")]
    rows = [row for table in tables for row in table[2:]]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(tests/[^`:]+)::(\w+)`", row)
        assert named, row
        for path, test in named:
            assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


def test_every_rule_is_listed_and_has_its_function():
    listed = {line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if line.startswith("| R")}
    functions = {
        name.split("_")[0].upper()
        for name in [*vars(rules), *vars(journal_rules), *vars(vector_rules), *vars(announcement_rules)]
        if name[0] == "r" and name[1].isdigit()
    }
    for rule, module in (("R11", contributor_book), ("R13", statement)):
        assert f'"{rule}"' in Path(module.__file__).read_text()
    assert listed == functions | {"R11", history.RULE, "R13"} == {f"R{i}" for i in range(1, 16)}
