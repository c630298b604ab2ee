"""Seeding the generators."""

import torch

from fedhealth.training.seeding import seed_generators


def test_the_stream_is_that_of_torch_manual_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        expected = torch.rand(5)
        seed_generators(11, torch.device("cpu"))
        assert torch.equal(torch.rand(5), expected)


def test_a_gpu_is_seeded_as_well(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with torch.random.fork_rng(devices=[]):
        seed_generators(11, torch.device("cuda", 1))
        assert torch.initial_seed() == 11
    assert seeds == [11]


def test_any_other_device_is_left_to_torch(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    seed_generators(11, torch.device("mps"))
    assert seeds == [11]
