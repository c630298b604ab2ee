"""Fixtures for the tests of run directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fedhealth.run_writer import RunWriter


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return RunWriter(tmp_path / "run")
