"""Read a run directory into the record that the report is made from.

Every file but run.json may be absent and every event too: a run may have no test rows, no comparison, no data of its
own on this machine, or may have ended early.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from fedhealth.evaluation.metrics import METRICS, Estimate
from fedhealth.privacy.accounting.spending import spending, totals
from fedhealth.runs.record import (
    FEDERATED,
    Answer,
    Bins,
    Comparison,
    Gain,
    Group,
    Grouping,
    Histogram,
    Round,
    Run,
    Site,
    Split,
)
from fedhealth.runs.run_dir import AUDIT, GROUPS, RunDir
from fedhealth.utils.atomic_io import read_json


def collect(folder: Path) -> Run:
    """Read a run directory."""
    run = RunDir(folder)
    events, _ = run.events()
    text = _text(folder / "config.yaml")
    config: Any = OmegaConf.to_container(OmegaConf.create(text)) if text else {}
    rounds, final = _rounds(events)
    return Run(
        folder=folder.name,
        about=run.about,
        config=config,
        config_text=text,
        sites=_sites(events, config.get("data", {}).get("sites", ()), (*rounds, *([final] if final else []))),
        rounds=rounds,
        final=final,
        training_seconds=_training_seconds(events),
        evaluation={name: _split(entry) for name, entry in (read_json(folder / "evaluation.json") or {}).items()},
        histograms=_histograms(folder / "score_histograms.npz"),
        comparison=_comparison(read_json(folder / "comparison.json")),
        spending=tuple(spending(folder)),
        totals=tuple(totals(folder)),
        audit=tuple((read_json(folder / AUDIT) or {}).get("lines", ())),
        profile=_profile(events),
        groupings=tuple(map(_grouping, read_json(folder / GROUPS) or ())),
    )


def estimate_of(entry: Mapping[str, float | None] | None) -> Estimate:
    """Return an estimate from its JSON form, null as NaN."""
    values = [(entry or {}).get(name) for name in ("value", "low", "high")]
    return Estimate(*(float("nan") if value is None else float(value) for value in values))


@dataclass
class _Draft:
    number: int
    answers: list[Answer] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = float("nan")
    pooled: Mapping[str, Any] = field(default_factory=dict)
    divergence: float | None = None

    def finished(self) -> Round:
        return Round(self.number, tuple(self.answers), self.failures, self.seconds, self.pooled, self.divergence)


def _rounds(events: Iterable[Mapping[str, Any]]) -> tuple[tuple[Round, ...], Round | None]:
    """Return the training rounds and the last evaluation; answers belong to the exchange that was begun last."""
    rounds: list[_Draft] = []
    final: _Draft | None = None
    current = _Draft(0)
    for event in events:
        match event["event"]:
            case "round_started":
                current = _Draft(event["round"])
                rounds.append(current)
            case "evaluation_started":
                current = final = _Draft(len({draft.number for draft in rounds}))
            case "site_answered":
                costs = (event["seconds"], event["sent"], event["received"])
                current.answers.append(Answer(event["site"], *costs, event.get("own")))
            case "site_failed":
                current.failures[event["site"]] = str(event.get("reason", ""))
            case "round_completed" | "evaluation_completed":
                current.seconds = event.get("seconds", float("nan"))
                current.pooled = event.get("pooled") or {}
                current.divergence = event.get("divergence")
    return tuple(draft.finished() for draft in rounds), final.finished() if final else None


def _profile(events: Iterable[Mapping[str, Any]]) -> dict[str, Bins]:
    """Return the last tables of how the sites differ."""
    told = [event["tables"] for event in events if event["event"] == "heterogeneity"]
    return {
        name: Bins(tuple(table["rows"]), tuple(table["edges"]), tuple(map(tuple, table["counts"])))
        for name, table in (told[-1] if told else {}).items()
    }


def _sites(
    events: Iterable[Mapping[str, Any]], configured: Iterable[str], exchanges: Iterable[Round]
) -> tuple[Site, ...]:
    read = {event["site"]: event for event in events if event["event"] == "prepared"}
    declined = {event["site"]: event["reasons"] for event in events if event["event"] == "handshake"}
    seen = [name for each in exchanges for name in (*(answer.site for answer in each.answers), *each.failures)]
    return tuple(
        Site(
            name,
            read.get(name, {}).get("counts", {}),
            tuple(read.get(name, {}).get("warnings", ())),
            tuple(read.get(name, {}).get("rejected", ())),
            tuple(declined.get(name, ())),
        )
        for name in dict.fromkeys([*configured, *read, *seen])
    )


def _training_seconds(events: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds from the first round's start to the last round's end or the final evaluation's."""
    begun = [event["time"] for event in events if event["event"] == "started"]
    ended = [event["time"] for event in events if event["event"] in ("round_completed", "evaluation_completed")]
    return ended[-1] - begun[0] if begun and ended else float("nan")


def _split(entry: Mapping[str, Any]) -> Split:
    return Split(int(entry.get("studies", 0)), _metrics(entry), dict(entry.get("error", {})))


def _metrics(entry: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: estimate_of(entry.get(name)) for name in METRICS}


def _comparison(content: Mapping[str, Any] | None) -> Comparison | None:
    if not content:
        return None
    metric = str(content["metric"])
    models = {model["name"]: model for model in content["models"]}
    federated = models.get(FEDERATED, {}).get("pooled", {})
    own = {
        (name, site): estimate_of(scores.get(metric))
        for name, model in models.items()
        for site, scores in model["sites"].items()
    }
    gains = {
        row["name"]: Gain(row["name"], estimate_of(row["alternative"]), estimate_of(row["gain"]))
        for row in content["differences"]
    }
    return Comparison(metric, _metrics(federated), own, gains)


def _grouping(entry: Mapping[str, Any]) -> Grouping:
    groups = tuple(
        Group(
            str(row["group"]),
            row["studies"],
            {name: estimate_of(row[name]) for name in METRICS if row.get(name) is not None},
        )
        for row in entry["groups"]
    )
    return Grouping(str(entry["variable"]), groups, estimate_of(entry["gap"]))


def _histograms(path: Path) -> dict[str, Histogram]:
    """Return the summed score histograms by split."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        splits = sorted({name.partition(".")[0] for name in stored})
        return {split: Histogram(stored[f"{split}.positives"], stored[f"{split}.negatives"]) for split in splits}


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""
