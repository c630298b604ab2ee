"""Tables of a run's record as pandas DataFrames; an unknown number is NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from fedhealth.evaluation.metrics import METRICS, Estimate
from fedhealth.runs.record import RoundRecord, RunRecord

_ESTIMATE = ("value", "low", "high")


def build_metrics_table(run: RunRecord) -> pd.DataFrame:
    """Return the final model's pooled metrics.

    Returns:
        A row for each split and metric (index `split`, `metric`), with columns `value`, `low`, `high` (95 % interval)
        and `studies`, the number of labelled studies. The split `test_calibrated` is of the same test studies with
        calibrated scores, and has the metrics that a calibration changes.

    """
    results = dict(run.evaluation)
    if run.test_result:
        results["test"] = run.test_result
    rows = [
        {"split": split, "metric": metric, **_get_estimate(result.metrics.get(metric)), "studies": result.studies}
        for split, result in results.items()
        for metric in METRICS
    ]
    if run.test_result and (calibrated := run.test_result.calibrated):
        rows += [
            {"split": "test_calibrated", "metric": metric, **_get_estimate(found), "studies": run.test_result.studies}
            for metric, found in calibrated.metrics.items()
        ]
    return _build_frame(rows, ("split", "metric"), (*_ESTIMATE, "studies"))


def build_history_table(run: RunRecord) -> pd.DataFrame:
    """Return what was recorded in each training round.

    Returns:
        A row for each completed round (index `round`): loss and validation AUROC of the model at the START of the
        round, seconds, number of sites that replied, and bytes sent to and received from all sites together.

    """
    rows = [_describe_round(each) for each in run.rounds if not math.isnan(each.seconds)]
    columns = ("loss", "validation_auroc", "seconds", "sites", "bytes_sent", "bytes_received", "divergence")
    return _build_frame(rows, ("round",), columns)


def build_sites_table(run: RunRecord) -> pd.DataFrame:
    """Return the hospitals.

    Returns:
        A row for each hospital (index `site`): its counts of rows, patients and modalities where its data lie on this
        machine, the rounds that it missed, and why it declined (empty if it did not).

    """
    rows = [
        {
            "site": site.name,
            **site.counts,
            "missed_rounds": len(run.list_missed_rounds(site.name)),
            "declined": "; ".join(site.declined),
        }
        for site in run.sites
    ]
    return _build_frame(rows, ("site",), ("missed_rounds", "declined"))


def build_baselines_table(run: RunRecord) -> pd.DataFrame:
    """Return the baselines.

    Returns:
        A row for each baseline (index `baseline`): its metric (`value`, `low`, `high`) and the federated model's paired
        gain over it (`gain`, `gain_low`, `gain_high`); no row where nothing was compared.

    """
    gains = run.comparison.gains.values() if run.comparison else ()
    rows = [
        {
            "baseline": each.name,
            **_get_estimate(each.alternative),
            "gain": each.gain.value,
            "gain_low": each.gain.low,
            "gain_high": each.gain.high,
        }
        for each in gains
    ]
    return _build_frame(rows, ("baseline",), (*_ESTIMATE, "gain", "gain_low", "gain_high"))


def build_privacy_table(run: RunRecord) -> pd.DataFrame:
    """Return the privacy that each hospital's ledger shows for this run.

    Returns:
        A row for each hospital and data set (index `site`, `dataset`): `epsilon` spent, `target` (the most that the run
        may spend), `delta`, `noise_multiplier`, and the `unit` that epsilon protects; no row where no ledger is known.

    """
    columns = ("epsilon", "target", "delta", "noise_multiplier", "unit")
    rows = [
        {"site": each.site, "dataset": each.dataset, **{name: getattr(each, name) for name in columns}}
        for each in run.spending
    ]
    return _build_frame(rows, ("site", "dataset"), columns)


def _describe_round(each: RoundRecord) -> dict[str, Any]:
    return {
        "round": each.number,
        "loss": each.pooled.get("loss", math.nan),
        "validation_auroc": each.pooled.get("validation", {}).get("auroc", math.nan),
        "seconds": each.seconds,
        "sites": len(each.replies),
        "bytes_sent": sum(reply.bytes_sent for reply in each.replies),
        "bytes_received": sum(reply.bytes_received for reply in each.replies),
        "divergence": math.nan if each.divergence is None else each.divergence,
    }


def _get_estimate(estimate: Estimate | None) -> dict[str, float]:
    return {name: getattr(estimate, name) if estimate else math.nan for name in _ESTIMATE}


def _build_frame(rows: Iterable[Mapping[str, Any]], index: tuple[str, ...], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return a frame with at least these columns, also without rows."""
    listed = list(rows)
    found = dict.fromkeys([*index, *columns, *(name for row in listed for name in row)])
    return pd.DataFrame(listed, columns=list(found)).set_index(list(index))
