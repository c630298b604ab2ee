"""Where a site's ledgers lie; for readers that have no use for the accountant, whose libraries take seconds."""

from pathlib import Path

FOLDER = "privacy"
"""In a site's folder: one ledger `<data set>.jsonl` for each data set."""


def spent_path(ledger: Path) -> Path:
    """Return where it says, for monitors, what was spent in all: an upper bound that is quick to compute."""
    return ledger.with_suffix(".spent.json")
