"""What an ingest remembers of a file, and what it tries again."""

import numpy as np

from fedhealth.ingest.examine import Found
from fedhealth.ingest.store import Store


def store(folder):
    folder.mkdir(exist_ok=True)
    return Store(folder, ["broken", "closed"], (1, 4, 4), np.dtype("u1"), "meaning")


def test_a_broken_file_is_remembered_and_one_that_could_not_be_reached_is_not(tmp_path):
    with store(tmp_path / "cohort") as first:
        first.add("broken", "7|1", Found(rejected="the file is damaged"))
        first.add("closed", "7|1", Found(rejected="Permission denied", lasting=False))
    with store(tmp_path / "cohort") as second:
        assert second.known("broken", "7|1").rejected == "the file is damaged"
        assert second.known("broken", "8|1") is None
        assert second.known("closed", "7|1") is None
