"""Paths of a site's ledgers and of the files beside them. It imports no accountant, whose libraries take seconds."""

from hashlib import sha256
from pathlib import Path

LEDGER_DIR = "privacy"
"""In a site's folder: one ledger `<data set>.jsonl` for each data set."""
TARGET_SUFFIX = ".target.json"
"""Of the file with what a run promised, see `privacy_target`."""
_SITES_DIR = "sites"  # of a run directory
_STATE_DIR = "state"  # of a hospital's home


def get_ledger_path(folder: Path, dataset: str) -> Path:
    """Return the path of a data set's ledger in a site's folder."""
    return folder / LEDGER_DIR / f"{dataset}.jsonl"


def get_target_path(folder: Path, run: str) -> Path:
    """Return the path of a run's privacy target in a site's folder."""
    return folder / LEDGER_DIR / f"{_build_file_stem(run)}{TARGET_SUFFIX}"


def get_score_release_path(folder: Path, run: str) -> Path:
    """Return the path of a run's noisy release (the final model's scores, or statistics) in a site's folder."""
    return folder / LEDGER_DIR / f"{_build_file_stem(run)}.scores.npz"


def get_release_key_path(folder: Path) -> Path:
    """Return the path of the key of a site's release digests in its folder."""
    return folder / "release.key"


def get_spending_summary_path(ledger: Path) -> Path:
    """Return the path of the summary for monitors: the total epsilon of a ledger, an upper bound that is quick."""
    return ledger.with_suffix(".spent.json")


def find_ledgers(folder: Path) -> list[tuple[str, Path]]:
    """Return (site, ledger) for a site's folder, a hospital's home, or a run directory with several sites."""
    if (folder / _STATE_DIR / LEDGER_DIR).is_dir():
        return [("here", path) for path in sorted((folder / _STATE_DIR / LEDGER_DIR).glob("*.jsonl"))]
    sites = [folder] if (folder / LEDGER_DIR).is_dir() else sorted((folder / _SITES_DIR).glob("*"))
    return [(site.resolve().name, path) for site in sites for path in sorted((site / LEDGER_DIR).glob("*.jsonl"))]


def _build_file_stem(run: str) -> str:
    """Return a safe file name for a run id, which comes from the lead."""
    return run if run.isalnum() else sha256(run.encode()).hexdigest()[:16]
