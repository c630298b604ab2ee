import numpy as np
import pytest
import torch

from fedhealth.config.schema import DataConfig, ModelConfig, TabularColumnConfig, TaskConfig, TaskKind, TrainingConfig
from fedhealth.data.batches import Examples, Source
from fedhealth.errors import ConfigError, DataError, ModelError
from fedhealth.evaluation.predictions import predict, score
from fedhealth.models.multimodal import build_model
from fedhealth.training.trainer import PlainTrainer, Task, device_of, row_losses, steps_of

ADAM = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.03}
TASKS = {
    TaskKind.binary: TaskConfig(),
    TaskKind.multiclass: TaskConfig(TaskKind.multiclass, ["a", "b", "c"]),
    TaskKind.multilabel: TaskConfig(TaskKind.multilabel, ["a", "b"]),
}


def toy(kind, size=120):
    """Two features tell the label(s) apart."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(size, 2)).astype(np.float32)
    labels = {
        TaskKind.binary: values[:, :1] > 0,
        TaskKind.multiclass: np.digitize(values[:, :1], [-0.5, 0.5]),
        TaskKind.multilabel: values > 0,
    }[kind].astype(np.float32)
    rows = np.arange(size)
    return Examples({"tabular": Source(values, rows)}, labels, rows, rows)


def model(kind, seed=0):
    config = ModelConfig(
        dim=8,
        tabular={"_target_": "fedhealth.models.encoders.tabular.TabularEncoder", "hidden": 8},
        fusion={"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 8},
    )
    data = DataConfig(name="t", root=".", sites=["a"], task=TASKS[kind], tabular={"x": TabularColumnConfig()})
    return build_model(config, data, seed)


def training(**changes):
    return TrainingConfig(**{"batch_size": 16, "local_steps": 80, "optimizer": ADAM} | changes)


def fit(kind, examples=None, seed=0, rows=None, **changes):
    network, examples = model(kind), examples or toy(kind)
    rows = np.arange(len(examples.labels)) if rows is None else rows
    report = PlainTrainer().fit(Task(network, examples, rows, training(**changes), kind, seed))
    return network, report


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_separable_toy_is_learned(kind):
    examples = toy(kind)
    network, report = fit(kind)
    assert (report.steps, report.examples) == (80, 120)
    assert score(predict(network, examples, np.arange(120), kind), 2)["auroc"].value > 0.95
    _, later = fit(kind, local_steps=160)
    assert later.loss < report.loss


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    one, same, other = (fit(TaskKind.binary, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(1)
    one = fit(TaskKind.binary)[0].state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    assert all(torch.equal(value, one[name]) for name, value in fit(TaskKind.binary)[0].state_dict().items())


def test_encoders_learn_at_a_rate_of_their_own():
    sgd = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
    start = dict(model(TaskKind.binary).named_parameters())
    whole, tenth = (
        dict(fit(TaskKind.binary, local_steps=1, optimizer=sgd, encoder_lr=rate)[0].named_parameters())
        for rate in (1.0, 0.1)
    )
    for name in start:
        expected = (whole[name] - start[name]) * (0.1 if ".encoder." in name else 1.0)
        torch.testing.assert_close(tenth[name] - start[name], expected, rtol=1e-3, atol=1e-7)


def test_only_the_given_rows_are_seen():
    examples = toy(TaskKind.binary)
    rows = np.arange(0, 120, 2)
    spoilt = Examples(
        {"tabular": Source(examples.sources["tabular"].values.copy(), np.arange(120))},
        examples.labels.copy(),
        examples.patient,
        examples.study,
    )
    spoilt.sources["tabular"].values[1::2] = 1e6
    spoilt.labels[1::2] = 1 - spoilt.labels[1::2]
    one, other = (fit(TaskKind.binary, each, rows=rows)[0].state_dict() for each in (examples, spoilt))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_losses_are_the_textbooks():
    logits = torch.tensor([[0.5], [-1.0]])
    found = row_losses(logits, torch.tensor([[1.0], [0.0]]), TaskKind.binary)
    torch.testing.assert_close(found, torch.log1p(torch.exp(torch.tensor([-0.5, -1.0]))))
    found = row_losses(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0]]), TaskKind.multiclass)
    torch.testing.assert_close(found, torch.logsumexp(torch.tensor([[1.0, 2.0, 3.0]]), dim=1) - 2.0)


@pytest.mark.parametrize(("kind", "outputs", "labels"), [("binary", 1, 1), ("multiclass", 3, 1), ("multilabel", 2, 2)])
def test_a_row_without_labels_costs_nothing_and_moves_nothing(kind, outputs, labels):
    logits = torch.randn(3, outputs, requires_grad=True)
    targets = torch.ones(3, labels)
    targets[1] = float("nan")
    losses = row_losses(logits, targets, TaskKind(kind))
    assert losses.shape == (3,)
    assert losses[1] == 0
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1].any()
    assert logits.grad[0].any()


def test_a_missing_label_of_several_leaves_the_mean_of_the_others():
    logits = torch.tensor([[0.3, -0.7]])
    half = row_losses(logits, torch.tensor([[1.0, float("nan")]]), TaskKind.multilabel)
    torch.testing.assert_close(half, row_losses(logits[:, :1], torch.tensor([[1.0]]), TaskKind.binary))


def test_a_loss_that_is_not_finite_is_refused():
    examples = toy(TaskKind.binary)
    examples.sources["tabular"].values[5] = np.inf
    with pytest.raises(ModelError, match="loss is not a finite number"):
        fit(TaskKind.binary, examples)


def test_no_rows_are_refused_instead_of_waited_for():
    with pytest.raises(DataError, match="no row to train on"):
        fit(TaskKind.binary, rows=np.array([], np.int64))


def test_steps_are_given_or_counted_in_passes():
    assert steps_of(training(), 1000) == 80
    assert steps_of(training(local_steps=None, local_epochs=3), 33) == 9
    assert fit(TaskKind.binary, local_steps=None, local_epochs=2)[1].steps == 2 * 8


def test_a_device_that_is_not_there_is_refused():
    assert device_of("cpu").type == "cpu"
    assert device_of("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"training.device={name}"):
            device_of(name)
