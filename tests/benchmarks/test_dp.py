"""The cases of the benchmark of private training, here with the smallest images and few rows."""

from dataclasses import replace

import pytest
import torch

from benchmarks import dp

SMALL = {name: replace(case, size=32, rows=4) for name, case in dp.CASES.items() if "_" in name}
WARNINGS = pytest.mark.filterwarnings("ignore")  # Opacus's, about its own use of torch


@pytest.mark.parametrize("name", SMALL)
def test_every_case_has_a_private_step(name):
    case = SMALL[name]
    data, model = dp.make_data(case), case.build()
    assert len(set(data.patients)) == case.rows // case.per_patient
    before = [each.detach().clone() for each in model.parameters() if each.requires_grad]
    dp.make_bk_step(model, data)()
    after = [each for each in model.parameters() if each.requires_grad]
    assert all(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


@WARNINGS
def test_a_case_is_measured_beside_opacus_where_it_has_a_private_step():
    found = {
        name: dict(dp.measure_case(name, SMALL[name], quick=True)) for name in ("mobilenet_160", "mobilenet_224_x4")
    }
    assert found["mobilenet_160"].keys() == {"bk_mobilenet_160", "opacus_mobilenet_160"}
    assert found["mobilenet_224_x4"].keys() == {"bk_mobilenet_224_x4"}
    assert all(value > 0 for each in found.values() for value in each.values())
