"""What one real hospital gains: it trains a baseline and scores both models on its own patients; nothing leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.numpy import load_file

from fedhealth.config.schema import Config
from fedhealth.errors import ModelError
from fedhealth.experiment.baselines import BaselineData
from fedhealth.experiment.site_gains import compare_sites
from fedhealth.models.model_method import build_model_method
from fedhealth.models.model_state import list_trained_arrays, set_model_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.runs.hospital_calibration import compute_model_digest
from fedhealth.types import State


def compare_own_site(config: Config, site: str, shared: State, personal: Path) -> dict[str, object]:
    """Return the hospital's row of `comparison.json`, exact: alone, shared, personal copy, and their differences.

    The baseline takes as many steps as the hospital took in the run, with the run's privacy and a temporary ledger: the
    hospital's budget pays for what leaves only.

    Args:
        config: of the run, composed with the hospital's own overrides.
        site: the hospital.
        shared: the arrays that the federation trained.
        personal: the hospital's personal.safetensors of the run, if it has one.

    Raises:
        PrivacyError: the hospital has too few patients for the run's privacy.
        DataError: its data cannot be used.

    """
    bench = BaselineData.prepare(replace(config, data=replace(config.data, sites=[site])))
    set_model_arrays(bench.model, shared)
    has_personal = personal.is_file()
    tuned = {} if has_personal else bench.predict_tuned()
    if has_personal:
        own = load_file(personal)
        set_model_arrays(bench.model, {name: own[name] for name in own if name in bench.model.state_dict()})
    together = bench.predict()
    bench.train_on([site])
    [row] = compare_sites(together, bench.predict(), tuned, bench.config)
    return row


def load_shared_arrays(config: Config, weights: Path, digest: str) -> State:
    """Return the arrays that the federation trained from an exported model's weights.

    Raises:
        ModelError: they are not those that this hospital evaluated.

    """
    model = build_model(config.model, config.data, config.seed)
    personalization = build_model_method(config.personalization)
    personalization.freeze(model)
    names = personalization.select_shared(model, sorted(list_trained_arrays(model)))
    stored = load_file(weights) if weights.is_file() else {}
    shared = {name: stored[name] for name in names if name in stored}
    if len(shared) < len(names) or compute_model_digest(shared) != digest:
        raise ModelError(
            f"{weights} is not the model that this hospital evaluated.", "Ask the lead for the folder again."
        )
    return shared
