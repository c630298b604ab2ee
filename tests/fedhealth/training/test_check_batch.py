"""The self-check's rows are synthetic: whether a site can join does not depend on a patient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedhealth.config.schema import TaskKind
from fedhealth.data.examples import ModalitySource
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.training.check_batch import make_check_batch
from tests.fedhealth.training.test_dpsgd_trainer import hospital  # noqa: F401 - a fixture


def test_no_value_of_a_patient_is_read(hospital):  # noqa: F811
    one = hospital()
    task = one.task()
    first, owners = make_check_batch(one.model, task.examples, task.kind, 2)
    sources = {
        name: ModalitySource(np.full_like(source.values, 1), np.full_like(source.index, -1))
        for name, source in task.examples.sources.items()
    }
    # another site: other values, nobody has a modality, shorter texts, images of another depth
    sources["text"] = ModalitySource(np.zeros((3, 1), np.int64), sources["text"].index)
    sources["image"] = ModalitySource(sources["image"].values.astype(np.uint16), sources["image"].index)
    other = replace(task.examples, sources=sources, labels=np.full_like(task.examples.labels, np.nan))
    second, _ = make_check_batch(one.model, other, task.kind, 2)
    assert owners == [0, 0, 1, 2, 3, 4, 5]
    assert first.keys() == second.keys() >= {"image", "text", "tabular", "targets"}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_modality_is_missing_in_some_rows_and_some_row_has_all(hospital):  # noqa: F811
    one = hospital()
    batch, owners = make_check_batch(one.model, one.examples, TaskKind.binary, 1)
    assert owners == [0, 1, 2, 3, 4, 5]
    present = torch.stack([batch[f"{name}_present"] for name in sorted(one.model.modalities)])
    assert present.any(1).all()
    assert not present.all(1).any()
    assert present.all(0).any()
    assert not batch["image"][~batch["image_present"]].any()
    assert set(batch["targets"].flatten().tolist()) == {0, 1}
    assert int(batch["text"].max()) < one.model.towers["text"].encoder.buckets


def test_one_label_of_several_is_missing(hospital):  # noqa: F811
    one = hospital()
    several = replace(one.examples, labels=np.zeros((3, 4), np.float32))
    assert make_check_batch(one.model, several, TaskKind.multilabel, 1)[0]["targets"].isnan().sum() == 1


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e38])
def test_a_crafted_model_cannot_ask_about_a_patient(hospital, monkeypatch, poison):  # noqa: F811
    """On real rows the check would fail if and only if a patient's value makes this model overflow."""
    one = hospital()
    task = one.task()
    tabular = task.examples.sources["tabular"]
    values = np.array(tabular.values)
    values[task.rows[0]] = poison
    sources = task.examples.sources | {"tabular": ModalitySource(values, tabular.index)}
    sick = replace(task, examples=replace(task.examples, sources=sources))
    checked = []
    monkeypatch.setattr(
        "fedhealth.training.dpsgd_trainer.run_self_check", lambda *given: checked.append(run_self_check(*given))
    )
    assert one.trainer().check_can_join(sick, one.place(0)) == one.trainer().check_can_join(task, one.place(0)) == []
    assert checked[0] == checked[1]


def test_a_layer_that_mixes_rows_is_found_on_synthetic_rows(hospital):  # noqa: F811
    class Mixing(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    one = hospital()
    one.model.fusion.head = nn.Sequential(Mixing(), *one.model.fusion.head)
    [reason] = one.trainer().check_can_join(one.task(), one.place(0))
    assert "self-check" in reason
