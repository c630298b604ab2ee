from fedhealth.config import compose
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.protocol.job import compose_job_config
from fedhealth.runs.run_dir import RunDir


def test_the_check_and_the_job_share_one_composition(tmp_path, monkeypatch):
    spec = RunSpec.compose([f"data.root={tmp_path}", "data.sites=[a,b,c]"], RunDir(tmp_path / "run"))
    composed = list[list[str]]()
    inner = compose.hydra_compose

    def count(name, overrides, **settings):
        composed.append(overrides)
        return inner(name, overrides, **settings)

    monkeypatch.setattr(compose, "hydra_compose", count)
    spec.check()
    assert compose_job_config(spec.job) == spec.settings
    assert composed == [list(spec.job_overrides)]
