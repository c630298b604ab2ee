import numpy as np
import pytest
import torch

from fedhealth.config.schema import DataConfig, ModelConfig, TabularColumnConfig, TaskConfig, TaskKind, TrainingConfig
from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.errors import DataError, ModelError
from fedhealth.evaluation.predictions import compute_metrics, predict_studies
from fedhealth.models.multimodal import build_model
from fedhealth.training.optimizers import count_steps
from fedhealth.training.trainer import PlainTrainer, TrainingTask

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
    return Examples({"tabular": ModalitySource(values, rows)}, labels, rows, rows)


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
    report = PlainTrainer().fit(TrainingTask(network, examples, rows, training(**changes), kind, seed))
    return network, report


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_separable_toy_is_learned(kind):
    examples = toy(kind)
    network, report = fit(kind)
    assert (report.steps, report.examples) == (80, 120)
    assert compute_metrics(predict_studies(network, examples, np.arange(120), kind), 2)["auroc"].value > 0.95
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
        {"tabular": ModalitySource(examples.sources["tabular"].values.copy(), np.arange(120))},
        examples.labels.copy(),
        examples.patient,
        examples.study,
    )
    spoilt.sources["tabular"].values[1::2] = 1e6
    spoilt.labels[1::2] = 1 - spoilt.labels[1::2]
    one, other = (fit(TaskKind.binary, each, rows=rows)[0].state_dict() for each in (examples, spoilt))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_loss_that_is_not_finite_is_refused():
    examples = toy(TaskKind.binary)
    examples.sources["tabular"].values[5] = np.inf
    with pytest.raises(ModelError, match="Training diverged"):
        fit(TaskKind.binary, examples)


def test_batch_norm_and_a_last_batch_of_one_row_are_explained():
    network, examples = model(TaskKind.binary), toy(TaskKind.binary, 17)
    network.register_module("norm", torch.nn.BatchNorm1d(1))
    network.register_forward_hook(lambda module, _, scores: module.norm(scores))
    task = TrainingTask(network, examples, np.arange(17), training(), TaskKind.binary, 0)
    with pytest.raises(ModelError, match="BatchNorm needs two"):
        PlainTrainer().fit(task)


def test_no_rows_are_refused_instead_of_waited_for():
    with pytest.raises(DataError, match="no row to train on"):
        fit(TaskKind.binary, rows=np.array([], np.int64))


def test_steps_are_given_or_counted_in_passes():
    assert count_steps(training(), 1000) == 80
    assert count_steps(training(local_steps=None, local_epochs=3), 33) == 9
    assert fit(TaskKind.binary, local_steps=None, local_epochs=2)[1].steps == 2 * 8
