"""Private training of a site with values that are not finite: no error, no loss, and weights that are finite."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhealth.config.instantiate import instantiate
from fedhealth.data.examples import ModalitySource
from fedhealth.errors import ModelError
from fedhealth.training.trainer import PlainTrainer
from tests.fedhealth.training.test_dpsgd_trainer import hospital  # noqa: F401 - a fixture


def poison(task, rows, value=np.nan):
    tabular = task.examples.sources["tabular"]
    values = np.array(tabular.values)
    values[rows] = value
    sources = task.examples.sources | {"tabular": ModalitySource(values, tabular.index)}
    return replace(task, examples=replace(task.examples, sources=sources))


@pytest.mark.parametrize("engine", ["bk", "opacus", "oracle"])
@pytest.mark.parametrize("everybody", [False, True])
def test_a_private_round_ends_whatever_a_patient_has(hospital, engine, everybody):  # noqa: F811
    one = hospital(f"privacy.engine={engine}", "training.batch_size=16", "model.image=null")
    task = one.task()
    report = one.trainer().fit(poison(task, task.rows if everybody else task.rows[:1]), one.place())
    assert np.isnan(report.loss)
    assert all(np.isfinite(value).all() for value in one.state().values())


def test_dropout_masks_do_not_follow_the_seed_of_the_lead(hospital, monkeypatch):  # noqa: F811
    drawn = []
    monkeypatch.setattr(
        "fedhealth.training.dpsgd_trainer.take_private_step", lambda *given: drawn.append(torch.rand(3))
    )
    one = hospital()
    for number in (1, 2):
        one.trainer().fit(one.task(seed=5), one.place(number))
    assert len({tuple(each.tolist()) for each in drawn}) == len(drawn) == 4


def test_client_training_that_diverges_is_no_error(hospital):  # noqa: F811
    one = hospital("model.image=null")
    node = {"_target_": "fedhealth.training.client_dp_trainer.ClientDPTrainer", "dataset": "demo", "epsilon": 4.0}
    trainer, task = instantiate(node), poison(one.task(), slice(None))
    start = one.state()
    assert np.isnan(trainer.fit(task, one.place()).loss)
    assert any(np.isnan(value).any() for value in one.state().values())
    update = {name: value - start[name] for name, value in one.state().items()}
    sent = trainer.protect_update(update, task, one.place())
    assert all(np.isfinite(value).all() for value in sent.values())
    with pytest.raises(ModelError, match="Training diverged"):
        PlainTrainer().fit(task)
