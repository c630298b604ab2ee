"""What DP libraries get wrong, one test each: every one of these passed silently or crashed somewhere."""

import pytest
import torch
from opacus.accountants import RDPAccountant
from torch import nn
from torch.nn import functional as F
from torchvision.models import DenseNet

from fedhealth.errors import PrivacyError
from fedhealth.models.normalization import replace_batch_norm
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, make_plan
from fedhealth.privacy.engines.base import select_rows
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.privacy.mechanisms.clipping import Clipping
from tests.fedhealth.privacy.toys import (
    TextTower,
    clear_summed_grads,
    flat_loss,
    fusion,
    fusion_batch,
    fusion_loss,
    get_summed_grads,
    relative_error,
    sums,
)

C = Clipping(0.1)
FAST = pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine])


def plan(**changes):
    wish = {"unit": "patient", "epsilon": 8, "sample_rate": 0.1, "steps": 5, "rounds": 2, "clipping": C, **changes}
    return make_plan(PrivacyRequest(**wish), PlanConstraints(), 200)


def rows(count=6, width=5):
    torch.manual_seed(0)
    return torch.randn(count, width), torch.randint(0, 2, (count,))


@FAST
def test_torchvision_in_place_activations_after_hooked_layers(engine):
    model, batch = fusion("resnet"), fusion_batch(2, size=32)
    assert any(m.inplace for m in model.modules() if isinstance(m, nn.ReLU))
    truth = sums(OracleEngine, model, fusion_loss, batch, [0, 1], C)
    assert relative_error(sums(engine, model, fusion_loss, batch, [0, 1], C), truth) < 1e-5


@FAST
def test_torchvision_densenet(engine):
    torch.manual_seed(0)
    model = replace_batch_norm(DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=3))
    batch = torch.randn(3, 3, 32, 32), torch.randint(0, 3, (3,))
    truth = sums(OracleEngine, model, flat_loss, batch, range(3), C)
    assert relative_error(sums(engine, model, flat_loss, batch, range(3), C), truth) < 1e-5


@FAST
def test_binary_loss_of_shape_b1_keeps_the_bound(engine):
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(5, 1), rows()

    def loss(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1][:, None].float(), reduction="none")

    whole = sums(engine, model, loss, (x * 100, y), range(6), C)
    less = sums(engine, model, loss, (x[1:] * 100, y[1:]), range(5), C)
    assert sum((whole[n] - less[n]).square().sum() for n in whole) ** 0.5 <= C.max_grad_norm * (1 + 1e-5)


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_reduced_loss_is_refused(engine):
    model, batch = nn.Linear(5, 2), rows()
    with pytest.raises(PrivacyError, match="one value per row"):
        engine(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), C).accumulate(batch, range(6))


def test_proximal_term_in_the_loss_is_refused_by_the_self_check():
    model, batch = nn.Linear(5, 2), rows()

    def loss(model, batch):
        return flat_loss(model, batch) + 0.5 * sum(p.square().sum() for p in model.parameters())

    with pytest.raises(PrivacyError, match="weight"):
        run_self_check(BookKeepingEngine, model, loss, C, batch, range(6))


def test_proximal_term_comes_after_the_noise():
    model, promised = nn.Linear(5, 2), plan()
    start = [p.detach().clone() for p in model.parameters()]

    def proximal(parameters):
        for p in parameters:
            p.grad += 1e6

    optimizer = NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), promised, after_noise=proximal)
    optimizer.allow_steps(promised.round_event)
    optimizer.step()
    assert all(
        torch.allclose(s - p, torch.tensor(1e6), rtol=1e-4) for s, p in zip(start, model.parameters(), strict=True)
    )


@FAST
def test_channels_last_depthwise_norms(engine):
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.Conv2d(8, 16, 1), nn.GELU(), nn.Conv2d(16, 8, 1))
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    model = model.to(memory_format=torch.channels_last)
    batch = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last), torch.randint(0, 2, (4,))
    truth = sums(OracleEngine, model, flat_loss, batch, range(4), C)
    assert relative_error(sums(engine, model, flat_loss, batch, range(4), C), truth) < 1e-5


@FAST
def test_tower_unused_in_a_step_has_no_stale_norms(engine):
    model, with_image, without = fusion(), fusion_batch(image="all"), fusion_batch(image="none")
    truth = sums(OracleEngine, model, fusion_loss, without, range(6), C)
    made = engine(model, fusion_loss, C)
    made.accumulate(with_image, range(6))
    clear_summed_grads(model)
    made.accumulate(without, range(6))
    found = get_summed_grads(model)
    assert not any(name.startswith("towers.image") for name in found)
    assert relative_error(found, truth) < 1e-5


@FAST
def test_two_backwards_before_a_step_both_count(engine):
    model, batch = fusion(), fusion_batch()
    truth = sums(OracleEngine, model, fusion_loss, batch, range(6), C)
    twice = sums(engine, model, fusion_loss, [batch, batch], [list(range(6))] * 2, C)
    assert relative_error(twice, {n: 2 * t for n, t in truth.items()}) < 1e-5


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_frozen_batch_norm_in_train_mode_is_refused(engine):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4).requires_grad_(False), nn.Linear(4, 2))
    with pytest.raises(PrivacyError, match=r"layer 1 \(BatchNorm1d\)"):
        engine(model, flat_loss, C)


def test_batch_norm_switched_to_train_mode_later_is_refused():
    model, batch = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4).requires_grad_(False), nn.Linear(4, 2)), rows()
    engine = BookKeepingEngine(model.eval(), flat_loss, C)
    engine.accumulate(batch, range(6))
    model.train()
    with pytest.raises(PrivacyError, match="BatchNorm1d"):
        engine.accumulate(batch, range(6))


@pytest.mark.parametrize("kind", ["class weights", "token mean"])
def test_loss_that_couples_rows_is_refused_by_the_self_check(kind):
    model, batch = nn.Linear(5, 2), rows()

    def loss(model, batch):
        losses = flat_loss(model, batch)
        if kind == "class weights":
            weights = torch.tensor([1.0, 9.0])[batch[1]]
            return losses * weights / weights.sum()
        return losses * len(losses) / batch[0].abs().sum()

    with pytest.raises(PrivacyError, match="differs from the exact one"):
        run_self_check(BookKeepingEngine, model, loss, C, batch, range(6))


@FAST
def test_position_ids_shared_by_the_batch(engine):
    torch.manual_seed(0)
    model, batch = nn.Sequential(TextTower()), fusion_batch()

    def loss(model, batch):
        return model[0](batch["text_ids"], batch["text_mask"]).square().sum(1)

    truth = sums(OracleEngine, model, loss, batch, range(6), C)
    found = sums(engine, model, loss, batch, range(6), C)
    name = "0.body.embeddings.position_embeddings.weight"
    assert truth[name].abs().max() > 0
    assert relative_error({name: found[name]}, {name: truth[name]}) < 1e-5


def test_bare_parameter_as_missing_token_is_refused_by_name():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.head = nn.Parameter(torch.zeros(5)), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(x + self.token)

    with pytest.raises(PrivacyError, match=r"Token\) has trainable parameters \(token\)"):
        BookKeepingEngine(Token(), flat_loss, C)
    sums(OracleEngine, Token(), flat_loss, rows(), range(6), C)  # the oracle takes it


def test_a_linear_layer_whose_weight_is_computed_is_refused_by_name():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(5, 2)))
    with pytest.raises(PrivacyError, match=r"layer 0 \(Linear\) has trainable parameters \(bias, weight_orig\)"):
        BookKeepingEngine(model, flat_loss, C)


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_empty_batch_is_a_noise_only_step_outside_the_model(engine):
    model, promised, accountant = nn.Linear(50, 50), plan(), RDPAccountant()
    made = engine(model, lambda m, b: pytest.fail("the model was called"), C)
    optimizer = NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), promised)
    optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(promised.sample_rate))
    optimizer.allow_steps(promised.round_event)
    before = model.weight.detach().clone()
    assert made.accumulate(rows(0), []).losses.shape == (0,)
    optimizer.step()
    moved = (model.weight.detach() - before) * promised.expected_batch_size / promised.noise_std
    assert 0.8 < float(moved.std()) < 1.2
    assert accountant.history == [(promised.noise_multiplier, promised.sample_rate, 1)]


def test_empty_batch_of_a_channels_last_model_is_noise_alone():
    model, promised = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last), plan()
    optimizer = NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), promised)
    optimizer.allow_steps(promised.round_event)
    before = model.weight.detach().clone()
    optimizer.step()
    moved = (model.weight.detach() - before) * promised.expected_batch_size / promised.noise_std
    assert 0.8 < float(moved.std()) < 1.2


@FAST
def test_state_dict_keeps_its_names(engine):
    model = fusion()
    names = list(model.state_dict())
    sums(engine, model, fusion_loss, fusion_batch(), range(6), C)
    assert list(model.state_dict()) == names


def test_replacing_batch_norm_keeps_pretrained_weights():
    norm = nn.BatchNorm2d(48)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    fixed = replace_batch_norm(nn.Sequential(nn.Conv2d(3, 48, 1), norm))[1]
    assert isinstance(fixed, nn.GroupNorm)
    assert fixed.num_groups == 16
    assert torch.equal(fixed.weight, norm.weight)
    assert torch.equal(fixed.bias, norm.bias)


def test_a_new_run_of_the_program_does_not_start_at_zero(tmp_path):
    for expected in (1, 2):
        with Ledger.open(tmp_path / "derm.ledger") as ledger:
            ledger.book("run", expected, "patient", PrivacyEvent(1.0, 0.1, 10), EpsilonLimits(1e-5))
            assert len(ledger.entries) == expected
            assert ledger.compute_spent_epsilon(1e-5) > 1.5 * (expected - 1)


def test_weight_decay_comes_after_the_noise():
    model, promised = nn.Linear(40, 40), plan()
    with torch.no_grad():
        model.weight.fill_(1e6)
    optimizer = NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5), promised)
    optimizer.allow_steps(promised.round_event)
    optimizer.step()  # a decay inside the loss would be clipped to 0.1
    assert torch.allclose(model.weight, torch.full_like(model.weight, 0.95e6), rtol=1e-3)


def test_calibration_is_for_the_whole_run():
    promised = plan(rounds=20)
    assert promised.run_event.steps == 100
    assert promised.epsilon <= 8


def test_steps_that_were_not_booked_are_refused():
    model, promised = nn.Linear(2, 2), plan()
    optimizer = NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), promised)
    with pytest.raises(PrivacyError, match="not booked"):
        optimizer.step()
    optimizer.allow_steps(PrivacyEvent(promised.noise_multiplier, promised.sample_rate, 1))
    optimizer.step()
    with pytest.raises(PrivacyError, match="not booked"):
        optimizer.step()
    with pytest.raises(PrivacyError, match="not this plan's"):
        optimizer.allow_steps(PrivacyEvent(promised.noise_multiplier / 2, promised.sample_rate, 1))


def test_half_precision_is_refused():
    with pytest.raises(PrivacyError, match=r"parameter weight is torch\.bfloat16"):
        BookKeepingEngine(nn.Linear(5, 2).bfloat16(), flat_loss, C)
    engine = BookKeepingEngine(nn.Linear(5, 2), flat_loss, C)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(PrivacyError, match="autocast"):
        engine.accumulate(rows(), range(6))


REFUSED = {
    "MultiheadAttention": nn.MultiheadAttention(4, 2),
    "LSTM": nn.LSTM(4, 4),
    "scale_grad_by_freq": nn.Embedding(4, 4, scale_grad_by_freq=True),
    "padding_mode='reflect'": nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "even kernel": nn.Conv2d(3, 4, 2, padding="same"),
    "ConvTranspose2d": nn.ConvTranspose2d(3, 4, 2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_layer_without_a_rule_is_refused_by_name(message):
    with pytest.raises(PrivacyError, match="layer inner") as caught:
        BookKeepingEngine(nn.ModuleDict({"inner": REFUSED[message]}), flat_loss, C)
    assert message in str(caught.value)
    BookKeepingEngine(
        nn.ModuleDict({"inner": REFUSED[message].requires_grad_(False), "head": nn.Linear(2, 2)}), flat_loss, C
    )


def test_layer_that_sees_other_rows_is_refused_by_name():
    model = nn.ModuleDict({"head": nn.Linear(5, 2)})
    engine = BookKeepingEngine(model, lambda m, b: m["head"](b[0][:3]).sum().expand(6), C)
    with pytest.raises(PrivacyError, match="layer head saw 3 rows of a batch of 6"):
        engine.accumulate(rows(), range(6))


def test_input_changed_in_place_is_refused_by_name():
    model = nn.ModuleDict({"head": nn.Linear(5, 2)})

    def loss(model, batch):
        out = model["head"](batch[0])
        batch[0].add_(1)
        return out.sum(1)

    with pytest.raises(PrivacyError, match="input of layer head was changed in place"):
        BookKeepingEngine(model, loss, C).accumulate(rows(), range(6))


def test_parameters_unfrozen_after_the_engine_was_made_are_refused():
    model = nn.Sequential(nn.Linear(5, 5).requires_grad_(False), nn.Linear(5, 2))
    engine = BookKeepingEngine(model, flat_loss, C)
    model.requires_grad_(True)
    with pytest.raises(PrivacyError, match="changed after the engine was made"):
        engine.accumulate(rows(), range(6))


def test_a_batch_whose_tensors_disagree_on_the_rows_is_refused():
    with pytest.raises(PrivacyError, match=r"shape \[4, 2\], but the batch has 6 rows"):
        select_rows({"a": torch.zeros(6), "b": torch.zeros(4, 2)}, [0], 6)
