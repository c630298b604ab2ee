"""Write a small synthetic run directory in the format of fedhealth; every part can be changed or omitted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 3
BINS = 64
CONFIG = """\
name: trial
seed: 7
data:
  sites: [A, B & <b>C</b>, D$x$]
  columns: {labels: [label]}
  task: {kind: binary, classes: [benign, malignant]}
privacy: {}
"""


def interval(value: float | None, width: float = 0.02) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": round(value - width, 6), "high": round(value + width, 6)}


def metrics(auroc: float | None) -> dict[str, Any]:
    others = {"auprc": 0.412, "balanced_accuracy": 0.623, "calibration_error": 0.0341}
    return {"auroc": interval(auroc)} | {name: interval(value) for name, value in others.items()}


class RunWriter:
    """Writes a run directory; tests change the fields before they call `write`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sites = ["A", "B & <b>C</b>", "D$x$"]
        self.info: dict[str, Any] = {
            "state": "running",
            "started": "2026-01-31T09:30:00+00:00",
            "run": "0a1b2c",
            "name": "trial",
            "digest": "d1ge57",
            "versions": "python=3.11.7 fedhealth=0.1.0",
            "overrides": ["experiment=trial"],
            "capabilities": {
                "trainer_is_private": False,
                "lead_sees_single_updates": True,
                "data_are_local": True,
            },
        }
        self.config: str | None = CONFIG
        self.own = True
        self.failed: set[tuple[str, int]] = set()
        self.counts: dict[str, dict[str, int]] = {site: self.count(100 * (1 + k)) for k, site in enumerate(self.sites)}
        self.findings: dict[str, list[dict[str, Any]]] = {}
        self.rejected: dict[str, list[str]] = {}
        self.evaluation: dict[str, Any] | None = {
            "test": {"studies": 1234, "positives": [200], **metrics(0.881)},
            "validation": {"studies": 345, "positives": [50], **metrics(0.871)},
        }
        self.histograms: dict[str, np.ndarray] | None = self.histogram()
        self.comparison: dict[str, Any] | None = self.compared({"alone, on average": 0.05})
        self.events: list[dict[str, Any]] | None = None

    @staticmethod
    def count(rows: int) -> dict[str, int]:
        split = {"train": rows - 40, "validation": 15, "test": 25}
        return {
            "rows": rows,
            "patients": rows - 5,
            "unlabelled": 3,
            "image": rows,
            "text": rows // 2,
            "tabular": 0,
            "rejected": 0,
        } | split

    @staticmethod
    def histogram(columns: int = 1) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(0)
        shape = (columns, BINS)
        return {f"test.{side}": generator.integers(0, 9, shape) for side in ("positives", "negatives")}

    def compared(self, gains: Mapping[str, float], width: float = 0.02) -> dict[str, Any]:
        models = [
            ("federated", 0.882),
            *((name, 0.882 - gain) for name, gain in gains.items() if name != "alone, on average"),
        ]
        return {
            "metric": "auroc",
            "models": [
                {"name": name, "pooled": metrics(value), "sites": {site: metrics(value - 0.1) for site in self.sites}}
                for name, value in models
            ],
            "differences": [
                {"name": name, "alternative": interval(0.882 - gain), "gain": interval(gain, width)}
                for name, gain in gains.items()
            ],
        }

    def declare(self, **capabilities: bool) -> None:
        """Change what the run's parts declared at launch."""
        self.info["capabilities"] |= capabilities

    def make_private(self, epsilon: float) -> None:
        """Let the run train with differential privacy."""
        self.declare(trainer_is_private=True)
        assert self.config is not None
        self.config = self.config.replace("privacy: {}", f"privacy: {{epsilon: {epsilon}, unit: patient}}")

    def write(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps(self.info))
        if self.config is not None:
            (self.folder / "config.yaml").write_text(self.config)
        for name in ("evaluation", "comparison"):
            if getattr(self, name) is not None:
                (self.folder / f"{name}.json").write_text(json.dumps(getattr(self, name)))
        if self.histograms is not None:
            np.savez(self.folder / "score_histograms.npz", allow_pickle=False, **self.histograms)
        events = self.default_events() if self.events is None else self.events
        lines = (json.dumps({"time": 1000.0 + 2 * k, **event}) + "\n" for k, event in enumerate(events))
        (self.folder / "events.jsonl").write_text("".join(lines))
        return self.folder

    def default_events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        for site, counts in self.counts.items():
            said = {"findings": self.findings.get(site, []), "rejected": self.rejected.get(site, [])}
            events.append({"event": "prepared", "site": site, "counts": counts, **said})
        events += [{"event": "handshake", "site": site, "reasons": [], "versions": ""} for site in self.sites]
        events.append({"event": "started", "rounds": ROUNDS, "completed": 0})
        for number in range(1, ROUNDS + 1):
            events.append({"event": "round_started", "round": number, "sites": self.sites})
            events += [self.answer(site, number) for site in self.sites]
            pooled = {"examples": 480, "loss": 0.7 / number, "validation": {"auroc": 0.5 + 0.1 * number}}
            done = {"seconds": 1.5 * number, "sites": self.sites, "pooled": pooled}
            events.append({"event": "round_completed", "round": number, **done})
        events.append({"event": "evaluation_started"})
        own = {"validation": {"auroc": 0.86}, "test": {"auroc": 0.85}} if self.own else None
        costs = {"seconds": 0.2, "sent": 1_000_000, "received": 2_000}
        events += [
            {"event": "site_answered", "round": ROUNDS, "site": site, **costs, "own": own} for site in self.sites
        ]
        pooled = {"validation": {"auroc": 0.871}, "test": {"auroc": 0.881}}
        return [*events, {"event": "evaluation_completed", "sites": self.sites, "pooled": pooled}]

    def answer(self, site: str, number: int) -> dict[str, Any]:
        if (site, number) in self.failed:
            return {"event": "site_failed", "round": number, "site": site, "reason": "no answer before the deadline"}
        own = {
            "examples": self.counts.get(site, {}).get("train", 1),
            "loss": 0.6 / number,
            "validation": {"auroc": 0.4 + 0.1 * number},
        }
        costs = {"seconds": 1.25 * number, "sent": 1_000_000, "received": 900_000}
        return {"event": "site_answered", "round": number, "site": site, **costs, "own": own if self.own else None}
