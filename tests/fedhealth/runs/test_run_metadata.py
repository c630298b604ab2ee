"""run.json: what was written is read again, also from an earlier release, and nothing else."""

import json

import pytest

from fedhealth.config.capabilities import Capabilities
from fedhealth.errors import ConfigError
from fedhealth.runs.run_metadata import RunError, RunMetadata, read_metadata, write_metadata

# As release 0.1.0 wrote it; `error` is null after a run was resumed.
BEFORE = """{
 "state": "completed",
 "started": "2026-11-27T20:01:02+00:00",
 "run": "0123456789ab",
 "versions": "python=3.11.7 fedhealth=0.1.0",
 "revision": null,
 "overrides": [
  "experiment=demo"
 ],
 "config_dir": "",
 "name": "demo",
 "digest": "d1",
 "job": [
  "experiment=demo",
  "data.root=/data"
 ],
 "capabilities": {
  "trainer_is_private": true,
  "lead_sees_single_updates": false,
  "data_are_local": true
 },
 "error": null,
 "finished": "2026-11-27T20:05:00+00:00"
}"""


def test_a_file_of_an_earlier_release_is_read(tmp_path):
    (tmp_path / "run.json").write_text(BEFORE)
    found = read_metadata(tmp_path)
    assert (found.run, found.job, found.fault) == ("0123456789ab", ("experiment=demo", "data.root=/data"), RunError())
    assert found.capabilities == Capabilities(
        trainer_is_private=True, lead_sees_single_updates=False, data_are_local=True
    )
    write_metadata(tmp_path, found)
    assert read_metadata(tmp_path) == found


def test_fields_that_are_empty_are_left_out(tmp_path):
    write_metadata(tmp_path, RunMetadata(state="failed", error=RunError("DataError", "bad row", "Mend it.")))
    error = {"kind": "DataError", "problem": "bad row", "advice": "Mend it."}
    assert json.loads((tmp_path / "run.json").read_text()) == {"state": "failed", "error": error}


def test_there_may_be_none(tmp_path):
    assert read_metadata(tmp_path) is None


def test_all_faults_are_named_with_the_file(tmp_path):
    (tmp_path / "run.json").write_text('{"state": "done", "run": 7, "colour": 1}')
    with pytest.raises(ConfigError) as caught:
        read_metadata(tmp_path)
    said = caught.value.problem
    assert said.startswith(f"{tmp_path / 'run.json'} is damaged: ")
    assert all(part in said for part in ("state: 'done' is not valid", "run: 7 is not a text", "colour: there is no"))
