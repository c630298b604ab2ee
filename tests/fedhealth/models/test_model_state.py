import numpy as np
import pytest
import torch
from torch import nn

from fedhealth.errors import ModelError
from fedhealth.models.model_state import (
    compute_l2_norm,
    get_model_arrays,
    list_trained_arrays,
    set_model_arrays,
    subtract_arrays,
    view_model_arrays,
)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).requires_grad_(False)
        self.trained = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.temperature = nn.Parameter(torch.tensor(1.5))


TRAINED = [
    "temperature",
    "trained.0.bias",
    "trained.0.weight",
    "trained.1.bias",
    "trained.1.running_mean",
    "trained.1.running_var",
    "trained.1.weight",
]


def test_what_is_trained_is_shared_with_its_running_statistics():
    assert list_trained_arrays(Mixed()) == TRAINED


def test_a_buffer_that_its_module_does_not_save_is_no_part_of_the_state():
    model = nn.ModuleDict({"rotary": nn.Linear(2, 2)})
    model["rotary"].register_buffer("frequencies", torch.ones(2), persistent=False)
    model["rotary"].register_buffer("running_mean", torch.ones(2))
    assert list_trained_arrays(model) == ["rotary.bias", "rotary.running_mean", "rotary.weight"]
    assert get_model_arrays(model, list_trained_arrays(model)).keys() == {*list_trained_arrays(model)}
    assert list_trained_arrays(model["rotary"]) == ["bias", "running_mean", "weight"]


def test_a_state_goes_round():
    torch.manual_seed(0)
    one, other = Mixed(), Mixed()
    state = get_model_arrays(one, TRAINED)
    assert state["temperature"].shape == ()
    set_model_arrays(other, state)
    for name, array in get_model_arrays(other, TRAINED).items():
        np.testing.assert_array_equal(array, state[name])
    assert (get_model_arrays(one, ["frozen.0.weight"])["frozen.0.weight"] != other.frozen[0].weight.numpy()).any()


def test_a_state_is_a_copy():
    model = Mixed()
    state = get_model_arrays(model, ["trained.0.weight"])
    before = state["trained.0.weight"].copy()
    with torch.no_grad():
        model.trained[0].weight.add_(1)
    np.testing.assert_array_equal(state["trained.0.weight"], before)
    set_model_arrays(model, state)
    state["trained.0.weight"][:] = 7
    assert (model.trained[0].weight != 7).all()


def test_arrays_in_another_layout_are_read_by_value():
    model, array = Mixed(), np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    set_model_arrays(model, {"trained.0.weight": array})
    np.testing.assert_array_equal(model.trained[0].weight.detach().numpy(), array)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("trained.0.bias", (3,), r"model has \(2,\) there"), ("nowhere", (2,), "model has nothing there")],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(name, shape, message):
    model = Mixed()
    before = get_model_arrays(model, TRAINED)
    good = {"trained.0.weight": np.full((2, 3), 9, np.float32)}
    with pytest.raises(ModelError, match=message):
        set_model_arrays(model, good | {name: np.zeros(shape, np.float32)})
    for key, array in get_model_arrays(model, TRAINED).items():
        np.testing.assert_array_equal(array, before[key])


def test_a_state_that_can_only_be_read_is_written_into_the_model_without_a_warning():
    one = Mixed()
    state = {name: np.frombuffer(array.tobytes(), np.float32).reshape(array.shape) for name, array in get(one).items()}
    with torch.no_grad():
        one.temperature.add_(1)
    set_model_arrays(one, state)
    assert one.temperature.item() == 1.5


def test_the_change_of_a_model_is_written_where_it_is_wanted():
    one = Mixed()
    before = get(one)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.25)
    expected = {name: array - before[name] for name, array in get(one).items()}
    out = {name: np.full(array.shape, 9, np.float32) for name, array in before.items()}
    views = view_model_arrays(one, before)
    squares = [subtract_arrays(views, before, place) for place in (out, views)]
    assert squares == [pytest.approx(compute_l2_norm(expected) ** 2, rel=1e-12)] * 2
    for name, array in expected.items():
        np.testing.assert_array_equal(out[name], array)
        np.testing.assert_array_equal(get(one)[name], array)


@pytest.mark.parametrize("size", [0, 1, 7, 2**15, 2**15 + 1, 100_003, 1_000_003])
def test_a_norm_in_pieces_is_that_of_the_whole_to_the_last_bit(size):
    values = np.random.default_rng(size).normal(size=(size, 1)).astype(np.float32)
    assert compute_l2_norm({"w": values}) == float(np.sqrt(np.square(values, dtype=np.float64).sum()))


@pytest.mark.parametrize("size", [0, 1, 2**15 + 1, 100_003])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_difference_in_pieces_is_that_of_the_whole_to_the_last_bit(size, order):
    generator = np.random.default_rng(size)
    after, before = (generator.normal(size=(3, size)).astype(np.float32) for _ in range(2))
    whole, after = after - before, np.asarray(after, order=order)
    squares = subtract_arrays({"w": after}, {"w": before}, {"w": after})
    np.testing.assert_array_equal(after, whole)
    assert np.sqrt(squares) == compute_l2_norm({"w": whole})
    one, other = whole[0], whole[1]
    rest = float(np.square(one, dtype=np.float64).sum())
    assert compute_l2_norm({"b": other}, rest) == compute_l2_norm({"a": one, "b": other})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 50_000, 99_999])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(value, place):
    values = np.ones(100_000, np.float32)
    values[place] = value
    assert not np.isfinite(compute_l2_norm({"w": values, "none": np.zeros(0, np.float32)}))


def get(model):
    return get_model_arrays(model, list_trained_arrays(model))
