"""The audit of a finished run composes what the run was started with."""

from fedhealth.cli.audit import _load_audit_subject
from fedhealth.runs.run_dir import RunDir


def test_a_run_with_own_parts_is_composed_with_its_folder_of_configuration_files(tmp_path):
    option = tmp_path / "conf" / "model" / "tabular" / "own.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: fedhealth.models.encoders.tabular.TabularEncoder\nhidden: 5\n")
    run = RunDir(tmp_path / "run")
    run.create(overrides=["data.root=x", "model/tabular=own"], config_dir=str(tmp_path / "conf"))
    config, final = _load_audit_subject([str(run.path)], run)
    assert config.model.tabular["hidden"] == 5
    assert final is None
