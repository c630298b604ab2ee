from fedhealth.experiment.comparison_text import format_comparison


def estimate(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


POOLED = {"auroc": estimate(0.87), "calibration_error": estimate(0.3), "balanced_accuracy": estimate(0.5)}


def comparison(calibrated):
    model = {"name": "federated", "pooled": POOLED}
    return {"models": [model], "differences": [], "calibrated": calibrated, "sites": []}


def test_scores_are_named_by_whether_they_are_calibrated():
    calibrated = {"calibration_error": estimate(0.06), "balanced_accuracy": estimate(0.8)}
    _, raw, better = format_comparison(comparison(calibrated))
    assert raw == (
        "As the model scores: calibration error 0.300 [0.290, 0.310], balanced accuracy 0.500 [0.490, 0.510]"
    )
    assert better.startswith("With each hospital's calibration: calibration error 0.060 [0.050, 0.070]")


def test_without_a_calibration_the_models_own_error_is_shown():
    _, raw = format_comparison(comparison(None))
    assert raw.startswith("As the model scores: calibration error 0.300")
