"""A hospital stores its own scores at the end of a run, calibrates with them, and sends nothing more than before."""

import json
import stat

import numpy as np
import pytest
from omegaconf import OmegaConf

from clients.app import get_job_cache
from fedhealth.cli.main import main
from fedhealth.config.compose import compose_config
from fedhealth.data.dataset import prepare_dataset
from fedhealth.evaluation.calibration import OWN_BINS
from fedhealth.evaluation.metrics import PRIMARY_METRIC
from fedhealth.evaluation.predictions import compute_metrics, count_scores, predict_studies
from fedhealth.experiment.baselines import BaselineData
from fedhealth.export.model import save_model
from fedhealth.models.model_state import set_model_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.protocol.messages import EVALUATE
from fedhealth.runs.hospital_calibration import load_calibration, write_pooled_scores
from fedhealth.runs.score_file import CALIBRATION_FILE, OWN_SCORES_FILE, POOLED_SCORES_FILE, load_score_file
from fedhealth.site.audit_log import AuditLog, verify_log
from fedhealth.site.run_text import OWN_GAIN_FILE, describe_own_gain
from fedhealth.training.feature_cache import build_model_inputs
from tests.clients.lying_lead import RUN, VICTIM, LyingLead


@pytest.fixture(scope="module", name="lead")
def lead_(tmp_path_factory, site_writer):
    """A hospital that has evaluated a private run's model."""
    root = tmp_path_factory.mktemp("own")
    site_writer(root / "data", "north", patients=60)
    get_job_cache.cache_clear()
    lead = LyingLead(root, root / "data")
    log = AuditLog(lead.home.audit)
    log.write("accepted", run=RUN, digest=lead.digest, order=json.loads(lead.sign().dumps()), signature="00")
    assert not lead.handshake()
    assert not lead.ask(EVALUATE).has_error()
    return lead


def test_own_scores_are_exact_and_stay(lead):
    path = lead.home.get_run_folder(RUN) / OWN_SCORES_FILE
    stored = load_score_file(path)
    config = OmegaConf.to_object(compose_config([*lead.words, f"data.root={lead.data}"]))
    model = build_model(config.model, config.data, config.seed)
    set_model_arrays(model, lead.state)
    config.data.sites = ["north"]
    cohort = prepare_dataset(config.data, "north")
    for split, counts in stored.counts.items():
        direct = predict_studies(model, build_model_inputs(cohort, model), cohort.rows(split), config.data.task.kind)
        expected = count_scores(direct, OWN_BINS)
        assert np.array_equal(counts.positives, expected.positives)
        assert np.array_equal(counts.negatives, expected.negatives)
    assert not stored.counts["validation"].noise_std
    content = path.read_bytes()
    assert [entry for entry in verify_log(lead.home.audit) if OWN_SCORES_FILE in str(entry)] == []
    assert len(content) > 2 * OWN_BINS


def test_site_calibrate_finds_them_by_the_model(lead, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FEDHEALTH_HOME", str(lead.home.path))
    monkeypatch.setattr("sys.argv", ["fedhealth", "site", "calibrate", str(tmp_path)])
    write_pooled_scores(tmp_path / POOLED_SCORES_FILE, lead.state, None)
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capfd.readouterr().out
    assert not stopped.value.code, shown
    found = load_calibration(lead.home.get_run_folder(RUN) / CALIBRATION_FILE)
    assert (found.hospital, found.is_personal) == (VICTIM, False)
    assert f"Calibrated the shared model for {VICTIM}" in shown
    assert f"{found.classes[0].positives} own studies with it" in shown
    changed = {name: array + 1 for name, array in lead.state.items()}
    write_pooled_scores(tmp_path / POOLED_SCORES_FILE, changed, None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "did not take part" in " ".join(capfd.readouterr().err.split())


@pytest.fixture(name="compare")
def compare_(lead, tmp_path, monkeypatch, capfd):
    """`compare(state)`: exit code and output of `fedhealth site compare` for a model folder with these arrays."""

    def call(state):
        config = compose_config([*lead.words, f"data.root={lead.data}"])
        save_model(config, state, tmp_path / "model")
        write_pooled_scores(tmp_path / "model" / POOLED_SCORES_FILE, lead.state, None)
        monkeypatch.setenv("FEDHEALTH_HOME", str(lead.home.path))
        monkeypatch.setattr("sys.argv", ["fedhealth", "site", "compare", "--json", str(tmp_path / "model")])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capfd.readouterr()
        return stopped.value.code or 0, shown.out, shown.err

    return call


def test_a_hospital_tells_itself_exactly_what_it_gains(lead, compare):
    before = lead.books()
    code, shown, fault = compare(lead.state)
    assert code == 0, fault
    row = json.loads(shown)
    config = OmegaConf.to_object(compose_config([*lead.words, f"data.root={lead.data}"]))
    config.data.sites = ["north"]
    bench = BaselineData.prepare(config)
    set_model_arrays(bench.model, lead.state)
    direct = compute_metrics(bench.predict()["north"], 0)[PRIMARY_METRIC].value
    assert row["shared"]["value"] == pytest.approx(direct, abs=1e-6)
    assert row["shared_gain"]["value"] == pytest.approx(row["shared"]["value"] - row["alone"]["value"], abs=1e-5)
    assert row["tuned"]["value"] is not None
    stored = lead.home.get_run_folder(RUN) / OWN_GAIN_FILE
    assert json.loads(stored.read_text()) == row
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert lead.books() == before  # nothing is booked: nothing leaves
    entries = verify_log(lead.home.audit)
    assert entries[-1]["event"] == "compared"
    assert len([entry for entry in entries if entry["event"] == "left"]) == 2  # handshake and evaluation
    assert f"alone {row['alone']['value']:.3f}" in describe_own_gain(row)


def test_weights_that_were_not_evaluated_here_are_refused(lead, compare):
    code, _, fault = compare({name: array + 1 for name, array in lead.state.items()})
    assert code == 4
    assert "not the model that this hospital evaluated" in " ".join(fault.split())
