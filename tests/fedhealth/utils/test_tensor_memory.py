"""The bytes of tensors that are alive at a time."""

import torch
from torch import nn

from fedhealth.utils.tensor_memory import PeakCounter

KB = 1024  # of 256 float32


def test_the_peak_is_of_what_is_alive_together():
    with PeakCounter() as count:
        a = torch.zeros(256)
        b = a + 1
        del a
        c = b * 2
        del b, c
        torch.zeros(256)
    assert count.peak == 2 * KB


def test_views_in_place_operations_and_what_was_there_before_cost_nothing():
    given = torch.zeros(256)
    with PeakCounter() as count:
        given.view(16, 16).T.add_(1)
        given[:10].mul_(2)
        assert count.peak == 0
        own = torch.zeros(256)
        own.view(2, 128).add_(1)
        torch.add(own, 1, out=own)
    assert count.peak == KB


def test_a_backward_pass_is_counted_and_repeats():
    model, x = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Tanh()), torch.randn(8, 256)
    peaks = []
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        with PeakCounter() as count:
            model(x).sum().backward()
        peaks.append(count.peak)
    assert peaks[0] == peaks[1]
    assert 256 * KB + 8 * KB <= peaks[0] < 2 * 256 * KB  # the weight's gradient, and some of the activations


def test_it_grows_with_the_rows():
    model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4)])
    peaks = {}
    for rows in (256, 512):
        model.zero_grad(set_to_none=True)
        with PeakCounter() as count:
            model(torch.randn(rows, 64)).sum().backward()
        peaks[rows] = count.peak
    assert 1.8 < peaks[512] / peaks[256] < 2
