"""Load the record of a run (`RunRecord`) from the files of its directory; the report's numbers come from here.

Which file gives which number:
    evaluation.json: pooled validation and test metrics (AUROC, AUPRC, ...), computed from summed score histograms.
    comparison.json: the same test metrics from exact scores, and the gains over the baselines (`RunRecord.test_result`
        takes the test AUROC from here where the file exists).
    events.jsonl: rounds, replies, loss and validation AUROC of each round, bytes, failures, heterogeneity.
    score_histograms.npz: ROC, precision-recall and calibration curves.
    groups.json: metrics by group of patients.
    the sites' ledgers: epsilon spent.
    audit.json: result of `fedhealth audit`.

Every file except run.json may be absent, and so may any event: a run may have no test rows, no baselines or no data on
this machine, or it may have ended early.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from fedhealth.data.findings import parse_findings
from fedhealth.evaluation.metrics import METRICS, Estimate
from fedhealth.privacy.accounting.spending import iter_dataset_spending, iter_run_spending
from fedhealth.privacy.auditing.blank_values import BlankValues, add_blanks
from fedhealth.protocol.messages import PrivacyClaim
from fedhealth.runs.damage import explain_damage, read_part
from fedhealth.runs.guarantee import read_guarantee
from fedhealth.runs.record import FEDERATED, RoundRecord, RunRecord, SelectedRound, SiteBinCounts, SiteRecord, SiteReply
from fedhealth.runs.results import (
    ALL_HOSPITALS,
    AuditResult,
    BaselineComparison,
    BaselineGain,
    CalibratedResult,
    GroupingResult,
    GroupResult,
    HistogramNoise,
    ScoreBinCounts,
    SiteGain,
    SplitResult,
)
from fedhealth.runs.run_dir import AUDIT_FILE, GROUPS_FILE, RunDir
from fedhealth.utils.privacy_text import format_epsilon


def load_run_record(folder: Path) -> RunRecord:
    """Return the record of the run in a directory.

    Raises:
        ConfigError: one of its files is damaged.

    """
    text, config = _load_config(folder / "config.yaml")
    return RunRecord(
        folder=folder.name,
        info=RunDir(folder).info,
        config=config,
        config_text=text,
        evaluation=read_part(folder / "evaluation.json", _parse_results),
        histograms=_load_score_histograms(folder / "score_histograms.npz"),
        comparison=read_part(folder / "comparison.json", _parse_comparison),
        spending=tuple(iter_run_spending(folder)),
        totals=tuple(iter_dataset_spending(folder, (config.get("privacy") or {}).get("lifetime_delta"))),
        audit=read_part(folder / AUDIT_FILE, _parse_audits),
        groupings=read_part(folder / GROUPS_FILE, lambda content: tuple(map(_parse_grouping, content or ()))),
        **_read_events(folder, (config.get("data") or {}).get("sites") or ()),
    )


def _load_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Return config.yaml as it is, and what it says; empty where there is none."""
    with explain_damage(path):
        text = path.read_text("utf-8") if path.is_file() else ""
        config: Any = OmegaConf.to_container(OmegaConf.create(text)) if text else {}
        _check_config(config)
        return text, dict(config)


def _check_config(config: Mapping[str, Any]) -> None:
    """Raise if the parts that a record and its guarantee read are of another kind."""
    tuple((config.get("data") or {}).get("sites") or ())
    read_guarantee(config.get("privacy") or {})


def _read_events(folder: Path, configured: Iterable[str]) -> dict[str, Any]:
    """Return the fields of the record that come from events.jsonl."""
    with explain_damage(folder / "events.jsonl"):
        events, _ = RunDir(folder).read_events()
        rounds, evaluations = _load_rounds(events)
        return {
            "sites": _load_sites(events, configured, (*rounds, *evaluations)),
            "rounds": rounds,
            "final": evaluations[-1] if evaluations else None,
            "earlier": evaluations[:-1],
            "selected": _load_selected_round(events),
            "training_seconds": _compute_training_seconds(events),
            "profile": _load_site_profile(events),
            "opened_noise": add_blanks(_load_blanks(events)),
        }


def _load_blanks(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, BlankValues]]:
    """Return the blank values of each opened sum, once: a lead that starts again may measure the last sum again."""
    measured = [event for event in events if event["event"] == "noise_measured"]
    sums = {(event["round"], json.dumps(event["blanks"])): event["blanks"] for event in measured}
    return list(map(_parse_blanks, sums.values()))


def _parse_results(content: Mapping[str, Any] | None) -> dict[str, SplitResult]:
    return {name: _parse_split_result(entry) for name, entry in (content or {}).items()}


def _parse_audits(content: Mapping[str, Any] | None) -> tuple[AuditResult, ...]:
    return tuple(map(_parse_audit, (content or {}).get("sites", ())))


def parse_estimate(entry: Mapping[str, float | None] | None) -> Estimate:
    """Return an estimate from its JSON form; null becomes NaN."""
    values = [(entry or {}).get(name) for name in ("value", "low", "high")]
    return Estimate(*(float("nan") if value is None else float(value) for value in values))


@dataclass
class _RoundDraft:
    number: int
    replies: list[SiteReply] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = float("nan")
    pooled: Mapping[str, Any] = field(default_factory=dict)
    divergence: float | None = None

    def build(self) -> RoundRecord:
        return RoundRecord(self.number, tuple(self.replies), self.failures, self.seconds, self.pooled, self.divergence)


def _load_rounds(
    events: Iterable[Mapping[str, Any]],
) -> tuple[tuple[RoundRecord, ...], tuple[RoundRecord, ...]]:
    """Return the training rounds and the evaluations; a reply belongs to the round that started last.

    An evaluation that was repeated after a restart counts once.
    """
    rounds: list[_RoundDraft] = []
    evaluations: dict[int, _RoundDraft] = {}
    current = _RoundDraft(0)
    for event in events:
        match event["event"]:
            case "round_started":
                current = _RoundDraft(event["round"])
                rounds.append(current)
            case "evaluation_started":
                current = _RoundDraft(int(event.get("round", len({draft.number for draft in rounds}))))
                evaluations.pop(current.number, None)
                evaluations[current.number] = current
            case "site_answered":
                costs = (event["seconds"], event["sent"], event["received"])
                current.replies.append(SiteReply(event["site"], *costs, event.get("own")))
            case "site_failed":
                current.failures[event["site"]] = str(event.get("reason", ""))
            case "round_completed" | "evaluation_completed":
                current.seconds = event.get("seconds", float("nan"))
                current.pooled = event.get("pooled") or {}
                current.divergence = event.get("divergence")
    return tuple(draft.build() for draft in rounds), tuple(draft.build() for draft in evaluations.values())


def _load_selected_round(events: Iterable[Mapping[str, Any]]) -> SelectedRound | None:
    """Return the exported round; None if the run was not finished."""
    found = [event for event in events if event["event"] == "selected"]
    if not found:
        return None
    score, last = found[-1].get("score"), found[-1]
    return SelectedRound(
        int(last["round"]), float("nan") if score is None else float(score), str(last.get("reason", ""))
    )


def _parse_blanks(content: Mapping[str, Mapping[str, Any]]) -> dict[str, BlankValues]:
    return {name: BlankValues(**each) for name, each in content.items()}


def _load_site_profile(events: Iterable[Mapping[str, Any]]) -> dict[str, SiteBinCounts]:
    """Return the latest tables of heterogeneity between sites."""
    profiles = [event["tables"] for event in events if event["event"] == "heterogeneity"]
    return {
        name: SiteBinCounts(tuple(table["rows"]), tuple(table["edges"]), tuple(map(tuple, table["counts"])))
        for name, table in (profiles[-1] if profiles else {}).items()
    }


def _load_sites(
    events: Iterable[Mapping[str, Any]], configured: Iterable[str], exchanges: Iterable[RoundRecord]
) -> tuple[SiteRecord, ...]:
    prepared = {event["site"]: event for event in events if event["event"] == "prepared"}
    replied = {event["site"]: event for event in events if event["event"] == "handshake"}
    in_rounds = [name for each in exchanges for name in (*(reply.site for reply in each.replies), *each.failures)]
    return tuple(
        SiteRecord(
            name,
            prepared.get(name, {}).get("counts", {}),
            parse_findings(prepared.get(name, {}).get("findings", ())),
            tuple(prepared.get(name, {}).get("rejected", ())),
            _list_reasons(replied[name]) if name in replied else (),
            PrivacyClaim(**claimed) if (claimed := replied.get(name, {}).get("privacy")) else None,
        )
        for name in dict.fromkeys([*configured, *prepared, *in_rounds])
    )


def _list_reasons(event: Mapping[str, Any]) -> tuple[str, ...]:
    """Return why a site declined and, last, how to fix it; nothing if it accepted."""
    reasons = (*event["reasons"], event.get("fix", ""))
    return tuple(str(reason).rstrip(".") for reason in reasons if reason) if event["reasons"] else ()


def _compute_training_seconds(events: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds from the start of training to the end of the last round or of the final evaluation."""
    started = [event["time"] for event in events if event["event"] == "started"]
    ended = [event["time"] for event in events if event["event"] in ("round_completed", "evaluation_completed")]
    return ended[-1] - started[0] if started and ended else float("nan")


def _parse_split_result(entry: Mapping[str, Any]) -> SplitResult:
    errors = dict(entry.get("error", {}))
    calibrated = _parse_pooled_calibration(entry.get("calibrated"))
    return SplitResult(int(entry.get("studies", 0)), _parse_metrics(entry), errors, _parse_noise(entry), calibrated)


def _parse_pooled_calibration(entry: Mapping[str, Any] | None) -> CalibratedResult | None:
    if not entry or not any(entry["classes"]):
        return None
    thresholds = tuple(float(each["threshold"]) if each else float("nan") for each in entry["classes"])
    return CalibratedResult(_parse_calibrated_metrics(entry), {ALL_HOSPITALS: thresholds})


def _parse_own_calibrations(entry: Mapping[str, Any] | None) -> CalibratedResult | None:
    if not entry:
        return None
    thresholds = {str(site): tuple(map(float, own)) for site, own in entry["thresholds"].items()}
    return CalibratedResult(_parse_calibrated_metrics(entry), thresholds)


def _parse_calibrated_metrics(entry: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: parse_estimate(entry[name]) for name in METRICS if name in entry}


def _parse_noise(entry: Mapping[str, Any]) -> HistogramNoise | None:
    return HistogramNoise(**entry["noise"]) if entry.get("noise") else None


def _parse_metrics(entry: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: parse_estimate(entry.get(name)) for name in METRICS}


def _parse_comparison(content: Mapping[str, Any] | None) -> BaselineComparison | None:
    if not content:
        return None
    metric = str(content["metric"])
    models = {model["name"]: model for model in content["models"]}
    federated = models.get(FEDERATED, {}).get("pooled", {})
    site_scores = {
        (name, site): parse_estimate(scores.get(metric))
        for name, model in models.items()
        for site, scores in model["sites"].items()
    }
    gains = {
        row["name"]: BaselineGain(row["name"], parse_estimate(row["alternative"]), parse_estimate(row["gain"]))
        for row in content["differences"]
    }
    sites = tuple(map(parse_site_gain, content.get("sites", ())))
    calibrated = _parse_own_calibrations(content.get("calibrated"))
    return BaselineComparison(metric, _parse_metrics(federated), site_scores, gains, sites, calibrated)


def parse_site_gain(row: Mapping[str, Any]) -> SiteGain:
    """Return a hospital's row of comparison.json; what is not there becomes NaN."""
    names = ("alone", "shared", "shared_gain", "tuned", "tuned_gain")
    return SiteGain(str(row["site"]), *(parse_estimate(row.get(name)) for name in names))


def _parse_grouping(entry: Mapping[str, Any]) -> GroupingResult:
    groups = tuple(
        GroupResult(
            str(row["group"]),
            row["studies"],
            {name: parse_estimate(row[name]) for name in METRICS if row.get(name) is not None},
        )
        for row in entry["groups"]
    )
    return GroupingResult(str(entry["variable"]), groups, parse_estimate(entry["gap"]), _parse_noise(entry))


def _parse_audit(entry: Mapping[str, Any]) -> AuditResult:
    findings, bounds = entry["findings"], entry.get("bounds", {})
    return AuditResult(
        str(entry["site"]),
        len(findings),
        tuple(f"{each['name']} ({each['detail']})" for each in findings if not each["passed"]),
        tuple(
            f"{name}: epsilon is at least {each['found']:.2g} ({100 * each['confidence']:.0f} %), claimed "
            f"{format_epsilon(each['claimed'], each['delta'])}"
            for name, each in bounds.items()
        ),
        float(entry.get("success", float("nan"))),
        str(entry.get("unit", "patient")),
        str(entry.get("skipped", "")),
    )


def _load_score_histograms(path: Path) -> dict[str, ScoreBinCounts]:
    """Return the score histograms by split, summed over sites."""
    if not path.is_file():
        return {}
    with explain_damage(path), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        splits = sorted({name.partition(".")[0] for name in stored})
        return {
            split: ScoreBinCounts(
                stored[f"{split}.positives"], stored[f"{split}.negatives"], float(stored.get(f"{split}.noise_std", 0.0))
            )
            for split in splits
        }
