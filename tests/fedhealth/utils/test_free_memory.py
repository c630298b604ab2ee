"""Free memory of the machine and of control groups, read from files as Linux writes them."""

import os

import pytest
import torch

from fedhealth.utils import free_memory
from fedhealth.utils.free_memory import (
    measure_free_gpu_memory,
    measure_free_memory,
    measure_resident_memory,
    share_memory,
)

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 1,000 kB available, and a process in the groups of a service."""
    monkeypatch.setattr(free_memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(free_memory, "_CGROUPS", tmp_path / "groups")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  4000 kB\nMemFree:  500 kB\nMemAvailable:   1000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/site.service\n")
    (tmp_path / "proc/self/statm").write_text("900 30 20 1 0 5 0\n")
    (tmp_path / "groups/system.slice/site.service").mkdir(parents=True)
    return tmp_path


def limit(folder, most, used, cached):
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")


def test_without_a_group_it_is_what_the_machine_has(machine):
    assert measure_free_memory() == 1000 * 1024
    assert measure_resident_memory() == 30 * PAGE


def test_processes_side_by_side_have_a_share_each(machine, monkeypatch):
    monkeypatch.setattr(free_memory, "_siblings", 1)
    share_memory(4)
    assert measure_free_memory() == 250 * 1024


def test_the_narrowest_group_decides_and_its_caches_can_be_dropped(machine):
    limit(machine / "groups/system.slice/site.service", 700_000, 300_000, 50_000)
    limit(machine / "groups/system.slice", 900_000, 600_000, 0)
    assert measure_free_memory() == 300_000
    limit(machine / "groups/system.slice", "max", 600_000, 0)
    assert measure_free_memory() == 450_000


def test_inside_of_a_container_the_group_is_at_the_root(machine):
    (machine / "proc/self/cgroup").write_text("0::/\n")
    limit(machine / "groups", 400_000, 100_000, 0)
    assert measure_free_memory() == 300_000


def test_a_full_group_leaves_nothing(machine):
    limit(machine / "groups/system.slice/site.service", 100_000, 200_000, 0)
    assert measure_free_memory() == 0


def test_a_system_without_these_files(machine):
    for path in ("proc/meminfo", "proc/self/cgroup", "proc/self/statm"):
        (machine / path).unlink()
    assert measure_free_memory() == PAGE * os.sysconf("SC_PHYS_PAGES") // 2
    assert measure_resident_memory() == 0


def test_what_torch_holds_unused_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 400)
    assert measure_free_gpu_memory(torch.device("cuda")) == 1300
