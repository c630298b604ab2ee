"""A patient whose values are not finite adds exactly zero, in one pass, and changes nobody else's part."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, make_plan
from fedhealth.privacy.engines.base import select_rows
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.step import take_private_step
from fedhealth.privacy.mechanisms.clipping import Clipping
from tests.fedhealth.privacy.engines.test_engines import LAYERS
from tests.fedhealth.privacy.toys import TextTower, fusion, fusion_batch, fusion_loss, relative_error, sums

ENGINES = [BookKeepingEngine, OpacusEngine, OracleEngine]
FLAT = Clipping(0.5)
CLIPPINGS = [
    FLAT,
    Clipping(0.5, "automatic"),
    Clipping(0.5, "tower", ("towers.image", "towers.text")),
    Clipping(1e6),
]
PATIENTS = [7, 2, 7, 2, 4, 5]
OTHERS = [0, 2, 4, 5]  # without patient 2
POISONS = [torch.nan, torch.inf]


def sums_without(engine, model, loss, batch, clipping):
    return sums(engine, model, loss, select_rows(batch, OTHERS, 6), [PATIENTS[row] for row in OTHERS], clipping)


def scaled_loss(model, batch):
    """A loss whose value and gradient are not finite for some rows, in every layer down to the input."""
    inputs, labels, scale = batch
    return F.cross_entropy(model(inputs), labels, reduction="none") * scale


def assert_adds_nothing(engine, model, loss, batch, clipping):
    found = sums(engine, model, loss, batch, PATIENTS, clipping)
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert relative_error(found, sums_without(engine, model, loss, batch, clipping)) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("clipping", CLIPPINGS, ids=["flat", "automatic", "tower", "inactive"])
@pytest.mark.parametrize(("poison", "source"), [(torch.nan, "image"), (-torch.inf, "image"), (torch.inf, "tabular")])
def test_a_patient_with_extreme_inputs_adds_nothing(engine, clipping, poison, source):
    model, batch = fusion(), fusion_batch(image="all")
    batch[source][3] = poison  # one of the patient's two rows
    assert_adds_nothing(engine, model, fusion_loss, batch, clipping)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["frozen", "last", "lora"])
def test_partly_frozen_models(engine, mode):
    model, batch = fusion(mode=mode), fusion_batch(image="all")
    batch["image"][1], batch["tabular"][1] = torch.nan, torch.inf
    assert_adds_nothing(engine, model, fusion_loss, batch, FLAT)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_with_in_place_layers(engine):
    model, batch = fusion("resnet"), fusion_batch(image="all", size=32)
    batch["image"][3] = torch.inf
    assert_adds_nothing(engine, model, fusion_loss, batch, FLAT)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("attention", "poison"), [("sdpa", torch.nan), ("eager", torch.inf)])
def test_an_embedding_whose_word_only_one_patient_has(engine, attention, poison):
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"text": TextTower(attention), "head": torch.nn.Linear(16, 3)})
    data = fusion_batch()
    ids = data["text_ids"].clamp(min=2)
    ids[3, 2] = 1
    with torch.no_grad():  # the lead sends the weights
        model["text"].body.embeddings.word_embeddings.weight[1] = poison

    def loss(model, batch):
        return F.cross_entropy(model["head"](model["text"](batch["ids"], batch["mask"])), batch["y"], reduction="none")

    assert_adds_nothing(engine, model, loss, {"ids": ids, "mask": data["text_mask"], "y": data["label"]}, FLAT)


@pytest.mark.parametrize("engine", [BookKeepingEngine, OracleEngine])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 3e38])
@pytest.mark.parametrize("clipping", [FLAT, Clipping(1e6)], ids=["flat", "inactive"])
def test_every_layer_with_an_extreme_loss(engine, name, poison, clipping):
    torch.manual_seed(0)
    make, inputs = LAYERS[name]
    scale = torch.ones(6)
    scale[3] = poison
    assert_adds_nothing(engine, make(), scaled_loss, (inputs(), torch.randint(0, 3, (6,)), scale), clipping)


@pytest.mark.parametrize("engine", [BookKeepingEngine, OracleEngine])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "reused and tied"])
@pytest.mark.parametrize("poison", POISONS)
def test_every_layer_with_extreme_inputs(engine, name, poison):
    torch.manual_seed(0)
    make, inputs = LAYERS[name]
    values = inputs()
    values[3].view(-1)[0] = poison
    assert_adds_nothing(engine, make(), scaled_loss, (values, torch.randint(0, 3, (6,)), torch.ones(6)), FLAT)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_the_bound_holds_with_any_values(data):
    """Also with huge numbers: some give finite gradients and are clipped, others overflow in a norm and add zero."""
    engine = data.draw(st.sampled_from(ENGINES))
    clipping = data.draw(st.sampled_from(CLIPPINGS[:3]))
    model, batch = fusion(), fusion_batch(image="all")
    for _ in range(data.draw(st.integers(1, 4))):
        values = batch[data.draw(st.sampled_from(["image", "tabular"]))]
        row = values[data.draw(st.integers(0, 5))].view(-1)
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(st.floats(width=32, allow_subnormal=False))
    whole = sums(engine, model, fusion_loss, batch, PATIENTS, clipping)
    assert all(bool(value.isfinite().all()) for value in whole.values())
    for patient in set(PATIENTS):
        rest = [row for row in range(6) if PATIENTS[row] != patient]
        less = sums(engine, model, fusion_loss, select_rows(batch, rest, 6), [PATIENTS[r] for r in rest], clipping)
        moved = sum((whole[name] - less[name]).double().square().sum() for name in whole) ** 0.5
        assert float(moved) <= clipping.max_grad_norm * (1 + 1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_is_computed_twice(engine):
    """A second pass would show in the time of the step, and would draw other dropout masks for the others."""
    model, calls = fusion(), []

    def loss(model, batch):
        calls.append(len(batch["label"]))
        return fusion_loss(model, batch)

    batch = fusion_batch()
    made = engine(model, loss, FLAT)
    made.accumulate(batch, PATIENTS)
    clean = list(calls)
    calls.clear()
    batch["tabular"][3] = torch.nan
    made.accumulate(batch, PATIENTS)
    assert calls == clean


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_of_nothing_finite_is_a_step_of_noise(engine):
    model, batch = fusion(), fusion_batch()
    batch["tabular"][:] = torch.nan
    plan = make_plan(PrivacyRequest("patient", 8.0, 0.1, 5, 2, FLAT, delta=1e-5), PlanConstraints(), 200)
    optimizer = NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), plan)
    optimizer.allow_steps(plan.round_event)
    take_private_step(engine(model, fusion_loss, FLAT), optimizer, [(batch, PATIENTS)])
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_norms_and_losses_have_a_place_for_every_patient(engine):
    model, batch = fusion(), fusion_batch()
    batch["tabular"][3] = torch.nan
    found = engine(model, fusion_loss, FLAT).accumulate(batch, PATIENTS)
    assert (found.norms > 0).tolist() == [True, False, True, True]  # 7, 2, 4, 5
    assert found.losses.shape == (6,)
