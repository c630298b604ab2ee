"""The model card (Mitchell et al., FAT* 2019) in the format of the Hugging Face hub: YAML head, Markdown body."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jinja2 import Environment, StrictUndefined

from fedhealth.export.model import CONFIG, ELSEWHERE
from fedhealth.report.notices import notices
from fedhealth.report.privacy import promise
from fedhealth.report.render import facts
from fedhealth.report.summary import summary
from fedhealth.report.wording import METRIC_NAMES, bracket, counted, integer, number
from fedhealth.runs.load_record import collect
from fedhealth.runs.record import MODALITIES, Run
from fedhealth.runs.run_dir import MODEL
from fedhealth.utils.atomic_io import read_json

CARD = "README.md"  # what the hub shows
_HUB_METRICS = {"auroc": "roc_auc", "auprc": "average_precision", "balanced_accuracy": "balanced_accuracy"}
_OF_THIS_MACHINE = ("Asked for with",)  # its words name folders
_COUNTS = ("patients", "rows", *MODALITIES)


def card(folder: Path) -> str:
    """Return the model card of a run directory."""
    run = collect(folder)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - Markdown
    template = environment.from_string(files(__package__).joinpath("card.md.j2").read_text("utf-8"))
    known = [site for site in run.sites if site.counts]
    return template.render(
        head=yaml.safe_dump(head(run), sort_keys=False, allow_unicode=True),
        title=_plain(run.about.get("name") or run.folder),
        summary=_plain(summary(run)),
        task=_plain(_task(run)),
        inputs=[name for name in MODALITIES if run.setting(f"model.{name}")],
        image=_image(run),
        variables=list(run.setting("data.tabular", {}) or {}) if run.setting("model.tabular") else [],
        hospitals=[_plain(site.name) for site in run.sites],
        data=[[_plain(site.name), *(integer(site.counts.get(name, 0)) for name in _COUNTS)] for site in known],
        data_head=_COUNTS,
        privacy=_privacy(run),
        studies=counted(run.test.studies, "test study") if run.test else "",
        metrics=_metrics(run),
        groups=_groups(run),
        elsewhere=len((read_json(folder / MODEL / CONFIG) or {}).get(ELSEWHERE, ())),
        notices=notices(run),
        facts=[(name, value) for name, value in facts(run) if name not in _OF_THIS_MACHINE],
    )


def head(run: Run) -> dict[str, Any]:
    """Return the card's metadata, as the hub reads it."""
    kinds = [name for name in MODALITIES if run.setting(f"model.{name}")]
    tags = ["federated-learning", "medical", "not-a-medical-device", *kinds]
    found: dict[str, Any] = {"library_name": "fedhealth", "license": "other", "tags": tags}
    if run.test:
        dataset = {"name": str(run.setting("data.name", "hospitals")), "type": "private", "split": "test"}
        scores = [
            {"type": hub, "name": METRIC_NAMES[name], "value": round(run.test.metrics[name].value, 4)}
            for name, hub in _HUB_METRICS.items()
            if not math.isnan(run.test.metrics[name].value)
        ]
        task = {"type": "image-classification" if "image" in kinds else "tabular-classification"}
        name = str(run.about.get("name") or run.folder)
        found["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": scores}]}]
    return found


def _task(run: Run) -> str:
    classes = [str(name) for name in run.setting("data.task.classes", [])]
    return f"{run.setting('data.task.kind', 'binary')} classification ({', '.join(classes)})"


def _image(run: Run) -> str:
    if not run.setting("model.image"):
        return "none"
    size, channels = run.setting("data.image.size"), run.setting("data.image.channels")
    return f"{size} x {size} pixels, {'grey' if channels == 1 else 'colour'}"


def _privacy(run: Run) -> list[str]:
    private, sealed = run.protected("privacy"), run.protected("secagg.lead")
    said = [f"Trained with {promise(run)}." if private else "No differential privacy: it may remember single patients."]
    if run.spending:
        most = max(run.spending, key=lambda each: each.epsilon)
        said.append(f"The most that a hospital spent: epsilon {most.epsilon:.2f} at delta {most.delta:.1g}.")
    said.append(
        "Secure aggregation: the lead saw sums over hospitals only."
        if sealed
        else "No secure aggregation: the lead saw each hospital's own update."
    )
    return said


def _metrics(run: Run) -> list[tuple[str, str, str]]:
    if run.test is None:
        return []
    return [(METRIC_NAMES[n], number(score.value), bracket(score) or "–") for n, score in run.test.metrics.items()]


def _groups(run: Run) -> list[dict[str, Any]]:
    few = "too few"
    return [
        {
            "variable": _plain(each.variable),
            "rows": [
                (
                    _plain(group.name),
                    few if group.studies is None else integer(group.studies),
                    number(group.metrics["auroc"].value) if "auroc" in group.metrics else few,
                )
                for group in each.groups
            ],
        }
        for each in run.groupings
    ]


def _plain(text: object) -> str:
    """Return free text so that it cannot become markup: names come from configurations."""
    escaped = str(text)
    for mark in "\\`*_[]<>|":
        escaped = escaped.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(escaped.split())
