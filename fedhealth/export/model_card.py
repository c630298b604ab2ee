"""Build the model card (Mitchell et al., FAT* 2019) in the format of the Hugging Face hub: YAML head, Markdown body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from fedhealth.evaluation.metrics import Estimate
from fedhealth.export.model import CONFIG_FILE, LOCAL_ARRAYS_KEY
from fedhealth.report.calibrated_scores import describe_thresholds
from fedhealth.report.groups import explain_missing_score, format_group_studies
from fedhealth.report.noise_notes import describe_noise, format_studies
from fedhealth.report.notices import collect_notices
from fedhealth.report.privacy import (
    EXACT_NOTE,
    describe_epsilon,
    describe_guarantee,
    describe_spare_rounds,
    describe_trust,
)
from fedhealth.report.render import list_run_facts
from fedhealth.report.summary import summarize_run
from fedhealth.report.wording import METRIC_NAMES, format_integer, format_interval, format_number
from fedhealth.runs.guarantee import get_spent_guarantee
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.record import MODALITIES, RunRecord
from fedhealth.runs.results import GroupResult, HistogramNoise
from fedhealth.runs.run_dir import MODEL_DIR
from fedhealth.utils.atomic_io import read_json

CARD_FILE = "README.md"  # the file that the hub displays
_HUB_METRICS = {"auroc": "roc_auc", "auprc": "average_precision", "balanced_accuracy": "balanced_accuracy"}
_OF_THIS_MACHINE = ("Command-line overrides",)  # they contain names of folders
_COUNTS = ("patients", "rows", *MODALITIES)


def build_model_card(folder: Path) -> str:
    """Return the model card of the run in a directory."""
    run = load_run_record(folder)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - Markdown
    template = environment.from_string(files(__package__).joinpath("model_card.md.j2").read_text("utf-8"))
    known = [site for site in run.sites if site.counts]
    return template.render(
        head=yaml.safe_dump(build_card_metadata(run), sort_keys=False, allow_unicode=True),
        title=_escape_markdown(run.info.name or run.folder),
        summary=_escape_markdown(summarize_run(run)),
        task=_escape_markdown(_describe_task(run)),
        inputs=[name for name in MODALITIES if run.get_setting(f"model.{name}")],
        image=_describe_image(run),
        variables=list(run.get_setting("data.tabular", {}) or {}) if run.get_setting("model.tabular") else [],
        hospitals=[_escape_markdown(site.name) for site in run.sites],
        data=[
            [_escape_markdown(site.name), *(format_integer(site.counts.get(name, 0)) for name in _COUNTS)]
            for site in known
        ],
        data_head=_COUNTS,
        exact_data=EXACT_NOTE if run.has_exact_results else "",
        exact_metrics=EXACT_NOTE if run.has_exact_test_result else "",
        privacy=_describe_privacy(run),
        studies=format_studies(run.test_result, "test study") if run.test_result else "",
        metrics=_format_metrics(run),
        thresholds=describe_thresholds(run.test_result.calibrated) if run.test_result else (),
        noise=describe_noise(run.test_result) if run.test_result and not run.has_exact_test_result else (),
        groups=_format_groups(run),
        elsewhere=len((read_json(folder / MODEL_DIR / CONFIG_FILE) or {}).get(LOCAL_ARRAYS_KEY, ())),
        notices=collect_notices(run),
        has_own_files=bool(run.info.config_dir),
        facts=[(name, value) for name, value in list_run_facts(run) if name not in _OF_THIS_MACHINE],
    )


def build_card_metadata(run: RunRecord) -> dict[str, Any]:
    """Return the card's metadata in the hub's format."""
    kinds = [name for name in MODALITIES if run.get_setting(f"model.{name}")]
    tags = ["federated-learning", "medical", "not-a-medical-device", *kinds]
    metadata: dict[str, Any] = {"library_name": "fedhealth", "license": "other", "tags": tags}
    if run.test_result:
        dataset = {"name": str(run.get_setting("data.name", "hospitals")), "type": "private", "split": "test"}
        scores = [
            {"type": hub, "name": METRIC_NAMES[name], "value": round(run.test_result.metrics[name].value, 4)}
            for name, hub in _HUB_METRICS.items()
            if not math.isnan(run.test_result.metrics[name].value)
        ]
        task = {"type": "image-classification" if "image" in kinds else "tabular-classification"}
        name = run.info.name or run.folder
        metadata["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": scores}]}]
    return metadata


def _describe_task(run: RunRecord) -> str:
    classes = [str(name) for name in run.get_setting("data.task.classes", [])]
    return f"{run.get_setting('data.task.kind', 'binary')} classification ({', '.join(classes)})"


def _describe_image(run: RunRecord) -> str:
    if not run.get_setting("model.image"):
        return "none"
    size, channels = run.get_setting("data.image.size"), run.get_setting("data.image.channels")
    return f"{size} x {size} pixels, {'grey' if channels == 1 else 'colour'}"


def _describe_privacy(run: RunRecord) -> list[str]:
    private, sealed = run.is_private, run.has_secure_aggregation
    sentences = [
        f"Trained with {describe_guarantee(run)}."
        if private
        else "No differential privacy: the model may memorise single patients."
    ]
    if spent := get_spent_guarantee(run):
        sentences.append(f"The most that a hospital spent: {describe_epsilon(spent)}.")
    sentences += (*describe_trust(run), *describe_spare_rounds(run)) if private else ()
    sentences.append(
        "Secure aggregation: the lead saw only sums over hospitals."
        if sealed
        else "No secure aggregation: the lead saw each hospital's own update."
    )
    return sentences


def _format_metrics(run: RunRecord) -> list[tuple[str, str, str]]:
    if run.test_result is None:
        return []
    calibrated = run.test_result.calibrated
    return [
        *_format_rows(run.test_result.metrics),
        *_format_rows(calibrated.metrics if calibrated else {}, ", calibrated"),
    ]


def _format_rows(metrics: Mapping[str, Estimate], suffix: str = "") -> list[tuple[str, str, str]]:
    return [
        (f"{METRIC_NAMES[name]}{suffix}", format_number(score.value), format_interval(score) or "–")
        for name, score in metrics.items()
    ]


def _format_groups(run: RunRecord) -> list[dict[str, Any]]:
    return [
        {
            "variable": _escape_markdown(each.variable),
            "rows": [_format_group(group, each.noise) for group in each.groups],
        }
        for each in run.groupings
    ]


def _format_group(group: GroupResult, noise: HistogramNoise | None) -> tuple[str, str, str]:
    return _escape_markdown(group.name), format_group_studies(group, noise), _format_auroc(group, noise)


def _format_auroc(group: GroupResult, noise: HistogramNoise | None) -> str:
    """Return a group's AUROC, with its interval where it holds noise."""
    if "auroc" not in group.metrics:
        return explain_missing_score(noise)
    found = group.metrics["auroc"]
    return format_number(found.value) if noise is None else f"{format_number(found.value)} {format_interval(found)}"


def _escape_markdown(text: object) -> str:
    """Escape free text so that it cannot become markup: names come from configurations."""
    escaped = str(text)
    for mark in "\\`*_[]<>|":
        escaped = escaped.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(escaped.split())
