"""mu follows the loss."""

import numpy as np
import pytest

from strategies.server_state.fedprox import MU, AdaptiveMu


def statistics(loss, examples=10):
    return {"train.loss": np.array([round(loss * examples * 2**20)]), "train.examples": np.array([examples])}


def mus(losses):
    server_state = AdaptiveMu(start=0.1)
    extra, seen = server_state.initialize({MU: (3,)}), []
    for loss in losses:
        extra = server_state.step(extra, {}, statistics(loss))
        seen.append(float(extra[MU][0]))
    return seen


def test_it_grows_when_the_loss_rises():
    assert mus([1.0, 2.0, 3.0]) == pytest.approx([0.1, 0.2, 0.3])


def test_it_shrinks_after_five_falls_and_not_below_zero():
    assert mus([9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5]) == pytest.approx([0.1] * 5 + [0.0] * 5, abs=1e-6)
    assert mus([9, 8, 7, 6, 6.5, 5, 4, 3, 2])[-1] == pytest.approx(0.2)
