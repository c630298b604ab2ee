"""No file and no table makes the ingest crash, hang, or take more memory than it may. `make fuzz` tries thousands."""

import os
from collections import Counter
from functools import partial

import pytest

from fedhealth.errors import DataError
from fedhealth.ingest.examine import ExamineOptions, ExamineResult
from fedhealth.ingest.pixel_layout import HEADER_BYTES
from fedhealth.ingest.pixel_writer import PixelTask, examine_and_write
from fedhealth.ingest.settings import ImageSettings, IngestTable, SelectionRule, TextSettings
from fedhealth.ingest.source import Folder
from fedhealth.ingest.tables import TableContext, TableRows, load_table
from fedhealth.ingest.worker_pool import FailedTask, WorkerPool
from tests.fuzz.mutate import dicom_files, tables

FILES = int(os.environ.get("FEDHEALTH_FUZZ_FILES", "120"))
TABLES = int(os.environ.get("FEDHEALTH_FUZZ_TABLES", "30"))
SEED = int(os.environ.get("FEDHEALTH_FUZZ_SEED", "0"))
LIMITS = {"workers": 2, "seconds": 20.0, "megabytes": 1024}
HARM = ("longer", "crash", "memory")
MOST_HARM = 0.01  # of files: limits are for the few that slip through every check


def count_reasons(answers):
    """Count answers by their reason."""
    return Counter(getattr(answer, "reason", "") or getattr(answer, "rejected", "") for answer in answers)


@pytest.mark.parametrize("take", ["middle", "mip"])
def test_dicom_files(tmp_path, take):
    images, kept = tmp_path / "images", tmp_path / "kept"
    images.mkdir()
    kept.mkdir()
    count = FILES if take == "middle" else FILES // 4
    for number, content in enumerate(dicom_files(count, SEED)):
        (images / f"{number:06}").write_bytes(content)
    source = Folder(str(images))
    work = ExamineOptions(source, (SelectionRule(take=take),), ImageSettings(), 16, 1)
    with WorkerPool(partial(examine_and_write, work, kept / "shared.bin"), **LIMITS) as pool:
        answers = dict(pool.iterate_results(map(PixelTask, source.items())))
    assert len(answers) == count
    for answer in answers.values():
        if isinstance(answer, ExamineResult):
            assert bool(answer.pictures) + bool(answer.left_out) + bool(answer.rejected) == 1
            assert "\n" not in answer.rejected
            assert len(answer.rejected) < 200
        else:
            assert isinstance(answer, FailedTask)
    reasons = count_reasons(answers.values())
    harm = sum(number for reason, number in reasons.items() if any(word in reason for word in HARM))
    assert harm <= MOST_HARM * count + 2, reasons.most_common()
    written = sum(path.stat().st_size - HEADER_BYTES for path in kept.iterdir())
    assert written == 256 * sum(
        len(answer.pictures) for answer in answers.values() if isinstance(answer, ExamineResult)
    )


def load(table):
    return load_table(table, TableContext(TextSettings(sections=("findings",), remove=("severe*",))))


def test_tables(tmp_path):
    wanted = []
    for number, (suffix, content) in enumerate(tables(TABLES, SEED)):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(content)
        wanted.append(IngestTable(path, {"patient": "id"}, {"text": "Text", "label": "y"}))
    found = []
    with WorkerPool(load, **LIMITS) as pool:
        for table, answer in pool.iterate_results(wanted):
            assert isinstance(answer, TableRows | DataError | FailedTask), table
            if isinstance(answer, DataError):
                assert answer.advice
            found.append(answer)
    assert len(found) == TABLES
    assert sum(isinstance(answer, FailedTask) for answer in found) <= MOST_HARM * TABLES + 2
