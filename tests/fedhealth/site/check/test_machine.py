"""Room, memory, processors, graphics card."""

from collections import namedtuple

import pytest
import torch

from fedhealth.site.check import machine
from fedhealth.site.check.base import CheckStatus
from fedhealth.site.check.machine import (
    check_disk,
    check_gpu,
    check_machine,
    check_memory,
    check_secrets,
    check_threads,
)
from fedhealth.site.policy import Resources

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "result"), [(1e9, "FAIL"), (5e9, "WARN"), (500e9, "PASS")])
def test_disk(tmp_path, monkeypatch, free, result):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: Usage(1e12, 1e12 - free, free))
    found = check_disk(tmp_path)
    assert found.status == result
    assert str(tmp_path) in found.finding


@pytest.mark.parametrize(("total", "result"), [(2.0, "FAIL"), (8.0, "WARN"), (64.0, "PASS")])
def test_memory(total, result):
    assert check_memory(Resources(memory_gb=16.0), total).status == result


def test_threads():
    assert check_threads(Resources(threads=4), 4).status == CheckStatus.PASS
    assert check_threads(Resources(threads=5), 4).status == CheckStatus.WARN


def test_secrets_belong_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("fedhealth.consortium.identity._SHARED_MEMORY", tmp_path / "nowhere")
    assert check_secrets(tmp_path).status == CheckStatus.WARN
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr("fedhealth.consortium.identity._SHARED_MEMORY", tmp_path / "memory")
    assert check_secrets(tmp_path / "home").status == CheckStatus.PASS


def test_a_graphics_card_is_looked_for_only_where_it_is_asked_for(tmp_path):
    assert "GPU" not in [check.name for check in check_machine(tmp_path, Resources())]
    assert "GPU" in [check.name for check in check_machine(tmp_path, Resources(device="cuda:0"))]


def test_a_graphics_card_that_is_not_there_is_a_fault():
    assert check_gpu("cuda:99").status == CheckStatus.FAIL


def test_a_gpu_that_is_there_passes():
    if not torch.cuda.is_available():
        pytest.skip("needs a graphics card")
    found = check_gpu("cuda:0")
    assert found.status == CheckStatus.PASS
    assert "GB" in found.finding
