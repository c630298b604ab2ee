"""What an ingest remembers of a file, and what it tries again."""

import numpy as np

from fedhealth.ingest.examine import ExamineResult
from fedhealth.ingest.store import IngestStore


def store(folder):
    folder.mkdir(exist_ok=True)
    return IngestStore(folder, ["broken", "closed"], (1, 4, 4), np.dtype("u1"), "meaning")


def test_a_broken_file_is_remembered_and_one_that_could_not_be_reached_is_not(tmp_path):
    with store(tmp_path / "cohort") as first:
        first.add("broken", "7|1", ExamineResult(rejected="the file is damaged"))
        first.add("closed", "7|1", ExamineResult(rejected="Permission denied", is_final=False))
    with store(tmp_path / "cohort") as second:
        assert second.find_record("broken", "7|1").rejected == "the file is damaged"
        assert second.find_record("broken", "8|1") is None
        assert second.find_record("closed", "7|1") is None
