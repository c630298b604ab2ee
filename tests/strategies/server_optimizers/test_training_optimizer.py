"""The lead's optimizer over the rounds: torch's own, whatever is forgotten between two rounds."""

from functools import partial

import numpy as np
import pytest
import torch

from fedhealth.errors import ConfigError
from strategies.server_optimizers.training_optimizer import TrainingOptimizer

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
ADAM = partial(torch.optim.AdamW, lr=0.1)


def make_updates(rounds):
    generator = np.random.default_rng(0)
    return [
        {name: generator.normal(size=shape).astype(np.float32) for name, shape in (("a.w", (3, 2)), ("b", (4,)))}
        for _ in range(rounds)
    ]


def take_steps(make, updates, **settings):
    """Take every step in a new object that has only the stored state."""
    arrays, state = {name: np.ones_like(value) for name, value in updates[0].items()}, {}
    for update in updates:
        optimizer = TrainingOptimizer(make, rounds=len(updates), **settings)
        optimizer.state = state
        arrays, state = optimizer.step(arrays, update), dict(optimizer.state)
        yield arrays


@pytest.mark.parametrize("make", [SGD, ADAM, partial(torch.optim.SGD, lr=0.1)])
def test_the_steps_are_those_of_torch(make):
    updates = make_updates(6)
    parameters = {name: torch.nn.Parameter(torch.ones(value.shape)) for name, value in updates[0].items()}
    reference = make(list(parameters.values()))
    for update, arrays in zip(updates, take_steps(make, updates), strict=True):
        for name, parameter in parameters.items():
            parameter.grad = -torch.from_numpy(update[name])
        reference.step()
        assert all(np.array_equal(arrays[name], p.detach().numpy()) for name, p in parameters.items())


def test_the_state_does_not_grow_with_the_rounds():
    sizes = set()
    optimizer, arrays = TrainingOptimizer(ADAM, rounds=20, averaged_share=1.0), {"b": np.zeros(4, np.float32)}
    for update in make_updates(20):
        arrays = optimizer.step(arrays, {"b": update["b"]})
        sizes.add(sum(value.nbytes for value in optimizer.state.values()))
    assert len(sizes) == 1


def test_the_last_models_are_averaged_in_the_last_round_only():
    updates = make_updates(8)
    plain, averaged = ([*take_steps(SGD, updates, averaged_share=share)] for share in (0, 0.5))
    assert all(np.array_equal(one["b"], two["b"]) for one, two in zip(plain[:-1], averaged[:-1], strict=True))
    assert np.allclose(averaged[-1]["b"], np.mean([arrays["b"] for arrays in plain[4:]], axis=0), atol=1e-6)


def test_a_tower_that_is_left_out_keeps_its_values_and_its_momentum():
    optimizer = TrainingOptimizer(SGD, rounds=3)
    first, second, third = make_updates(3)
    arrays = optimizer.step({name: np.zeros_like(value) for name, value in first.items()}, first)
    kept = optimizer.state["momentum_buffer.b"].copy()
    after = optimizer.step(arrays, {"a.w": second["a.w"]})
    assert np.array_equal(after["b"], arrays["b"])
    assert np.array_equal(optimizer.state["momentum_buffer.b"], kept)
    assert not np.array_equal(optimizer.step(after, third)["b"], after["b"])


def test_running_statistics_are_averaged_and_not_optimized():
    optimizer = TrainingOptimizer(ADAM, rounds=1)
    arrays = {"n.running_mean": np.array([1.0, 2.0], np.float32)}
    assert optimizer.step(arrays, {"n.running_mean": np.array([1.0, -1.0], np.float32)})["n.running_mean"].tolist() == [
        2,
        1,
    ]


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 2 / 3, 1 / 3]), ("cosine", None)]
)
def test_the_schedule_goes_over_all_rounds(schedule, expected):
    optimizer = TrainingOptimizer(SGD, rounds=4, schedule=schedule, warmup=1)
    found = [optimizer.compute_rate_factor(number) for number in range(1, 5)]
    if expected:
        assert found == pytest.approx(expected)
    assert found[0] < found[1] == 1
    assert all(factor > 0 for factor in found)
    steps = [TrainingOptimizer(partial(torch.optim.SGD, lr=1.0), rounds=4, schedule=schedule, warmup=1)]
    arrays = {"b": np.zeros(1, np.float32)}
    for factor in found:
        after = steps[0].step(arrays, {"b": np.ones(1, np.float32)})
        assert after["b"] - arrays["b"] == pytest.approx(factor)
        arrays = after


def test_encoders_have_their_own_rate():
    optimizer = TrainingOptimizer(partial(torch.optim.SGD, lr=1.0), encoder_lr=0.1)
    update = {name: np.ones(1, np.float32) for name in ("towers.image.encoder.w", "towers.image.project.w")}
    after = optimizer.step({name: np.zeros(1, np.float32) for name in update}, update)
    assert after["towers.image.encoder.w"] == pytest.approx(0.1)
    assert after["towers.image.project.w"] == pytest.approx(1.0)


@pytest.mark.parametrize("settings", [{"schedule": "steps"}, {"averaged_share": 1.5}, {"warmup": 9, "rounds": 8}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        TrainingOptimizer(SGD, **settings)


def test_an_optimizer_whose_state_cannot_be_kept_is_refused():
    class Forgetful(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["count"] = 1

    with pytest.raises(ConfigError, match="cannot keep"):
        TrainingOptimizer(partial(Forgetful, lr=1.0)).step(*[{"b": np.zeros(1, np.float32)}] * 2)
