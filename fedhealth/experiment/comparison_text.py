"""The comparison of the federated model with its baselines as a few lines of text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedhealth.evaluation.metrics import PRIMARY_METRIC


def format_comparison(result: Mapping[str, object]) -> Iterator[str]:
    """Yield the results as a few lines of text."""
    models: list = result["models"]  # type: ignore[assignment, type-arg]
    differences: list = result["differences"]  # type: ignore[assignment, type-arg]
    federated = _format_estimate(models[0]["pooled"][PRIMARY_METRIC])
    yield f"[bold]Pooled test {PRIMARY_METRIC.upper()}[/]: federated {federated}"
    for row in differences:
        gain = _format_estimate(row["gain"], sign=True)
        yield f"  {row['name']}: {_format_estimate(row['alternative'])}; federating gains {gain}"
    yield f"As the model scores: {_format_accuracy(models[0]['pooled'])}"
    if calibrated := result["calibrated"]:
        yield f"With each hospital's calibration: {_format_accuracy(calibrated)}"  # type: ignore[arg-type]
    for row in result["sites"]:  # type: ignore[attr-defined]
        if (row["shared_gain"]["value"] or 0) < 0:
            gain = _format_estimate(row["shared_gain"], sign=True)
            yield f"[bold red]{row['site']} does worse than alone:[/] {gain} on its own patients. See the report."
    for row in differences:
        if row["name"].endswith(" only") and (row["gain"]["high"] or 0) < 0:
            yield f"[bold red]{row['name'].capitalize()} is better than all modalities together.[/] See the report."


def _format_accuracy(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    error, accuracy = (_format_estimate(metrics[name]) for name in ("calibration_error", "balanced_accuracy"))
    return f"calibration error {error}, balanced accuracy {accuracy}"


def _format_estimate(value: Mapping[str, float | None], sign: bool = False) -> str:
    if value["value"] is None:
        return "not defined (one class)"
    form = "{:+.3f}" if sign else "{:.3f}"
    interval = ", ".join(form.format(value[end]) for end in ("low", "high") if value[end] is not None)
    return f"{form.format(value['value'])} [{interval}]"
