"""What the ledgers of a site say was spent, run by run: for the site's own people and for the report.

A ledger holds events. Beside it lies, for every run, what was promised: the delta at which its epsilon is measured.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fedhealth.privacy.accounting.accountant import epsilon
from fedhealth.privacy.accounting.ledger import Entry, spent, verify
from fedhealth.privacy.accounting.ledger_folder import FOLDER
from fedhealth.privacy.accounting.reservations import events_of, reservations

MUCH = 0.8
"""Share of a budget from which on its owner is told that little is left."""
_SITES = "sites"
_STATE = "state"  # of a hospital's home
_POINTS = 3  # each takes the exact accountant a moment
_DELTA = 1e-5


@dataclass(frozen=True)
class Promise:
    """What a run promised at a site: whom it protects, and with which epsilon, delta, sigma, in how many rounds."""

    run: str
    unit: str
    epsilon: float
    delta: float
    sigma: float
    rounds: int


@dataclass(frozen=True)
class Spending:
    """What one run spent on one data set of one site.

    Attributes:
        site: its name.
        dataset: its name.
        run: the run's id.
        unit: whom the epsilon protects.
        delta: at which epsilon is measured.
        epsilon: spent so far.
        target: the most that the run may spend; None where that is not on record.
        sigma: the training's noise multiplier.
        booked: how many events were booked.
        declined: how many were refused.
        curve: (round, epsilon so far), for a few rounds and the last.

    """

    site: str
    dataset: str
    run: str
    unit: str
    delta: float
    epsilon: float
    target: float | None
    sigma: float
    booked: int
    declined: int
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Total:
    """What all runs together spent on one data set of one site, measured at `delta`."""

    site: str
    dataset: str
    epsilon: float
    delta: float


def ledger_path(folder: Path, dataset: str) -> Path:
    """Return where the ledger of a data set lies in a site's folder."""
    return folder / FOLDER / f"{dataset}.jsonl"


def promise_path(folder: Path, run: str) -> Path:
    """Return where a run's promise lies in a site's folder."""
    return folder / FOLDER / f"{_name(run)}.promise.json"


def scores_path(folder: Path, run: str) -> Path:
    """Return where the noised scores of a run's final model are kept in a site's folder."""
    return folder / FOLDER / f"{_name(run)}.scores.npz"


def ledgers(folder: Path) -> list[tuple[str, Path]]:
    """Return (site, ledger) for a site's folder, a hospital's home, or a run directory with several sites."""
    if (folder / _STATE / FOLDER).is_dir():
        return [("here", path) for path in sorted((folder / _STATE / FOLDER).glob("*.jsonl"))]
    sites = [folder] if (folder / FOLDER).is_dir() else sorted((folder / _SITES).glob("*"))
    return [(site.resolve().name, path) for site in sites for path in sorted((site / FOLDER).glob("*.jsonl"))]


def spending(folder: Path, delta: float | None = None) -> Iterator[Spending]:
    """Yield what every run spent, by site and data set; every ledger is verified.

    Args:
        folder: a site's, or a run directory.
        delta: at which to measure; None takes each run's own.

    Raises:
        PrivacyError: a ledger was edited, cut or damaged.

    """
    for site, path in ledgers(folder):
        entries = [entry for entry in verify(path) if entry.kind in ("book", "decline")]
        for run in dict.fromkeys(entry.run for entry in entries):
            own = [entry for entry in entries if entry.run == run]
            yield _spending(site, path, own, _promise(path, run), delta)


def in_all(path: Path, delta: float | None = None) -> tuple[float, float]:
    """Return epsilon of all runs of a ledger together, and the delta at which it is measured."""
    entries = verify(path)
    promises = [_promise(path, run) for run in {entry.run for entry in entries}]
    at = delta or min((promise.delta for promise in promises if promise), default=_DELTA)
    return spent(entries, at), at


def reserved(path: Path, delta: float, now: float | None = None) -> tuple[float, float]:
    """Return epsilon of a ledger with everything that is reserved, and until when; (0, 0) where nothing is."""
    entries = verify(path)
    held = reservations(entries, time.time() if now is None else now)
    if not held:
        return 0.0, 0.0
    booked = [entry.event for entry in entries if entry.kind == "book"]
    return epsilon([*booked, *events_of(held)], delta), max(each.until for each in held)


def totals(folder: Path) -> Iterator[Total]:
    """Yield what was spent in all, by site and data set; see `spending`."""
    for site, path in ledgers(folder):
        yield Total(site, path.stem, *in_all(path))


def _spending(
    site: str, path: Path, entries: Sequence[Entry], promise: Promise | None, delta: float | None
) -> Spending:
    at = delta or (promise.delta if promise else _DELTA)
    booked = [entry for entry in entries if entry.kind == "book"]
    places = sorted({round(len(booked) * k / _POINTS) for k in range(1, _POINTS + 1)} - {0})
    return Spending(
        site=site,
        dataset=path.stem,
        run=entries[0].run,
        unit=entries[0].unit,
        delta=at,
        epsilon=spent(tuple(booked), at),
        target=promise.epsilon if promise else None,
        sigma=entries[0].event.sigma,
        booked=len(booked),
        declined=len(entries) - len(booked),
        curve=tuple((booked[k - 1].round, epsilon([entry.event for entry in booked[:k]], at)) for k in places),
    )


def _promise(path: Path, run: str) -> Promise | None:
    file = path.with_name(f"{_name(run)}.promise.json")
    return Promise(**json.loads(file.read_text("utf-8"))) if file.is_file() else None


def _name(run: str) -> str:
    """Return a file name for a run id, which comes from the lead."""
    return run if run.isalnum() else sha256(run.encode()).hexdigest()[:16]
