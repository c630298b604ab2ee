"""A site without notes neither moves nor dilutes the text tower."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir


@pytest.mark.parametrize(
    ("secagg", "optimizer"),
    [
        ("off", "adam"),
        ("on", "avg"),
        *(pytest.param(*each, marks=pytest.mark.long) for each in (("off", "avg"), ("on", "adam"))),
    ],
)
def test_the_text_tower_is_the_owners_alone(secagg, optimizer, site_writer, table_writer, tiny_overrides, tmp_path):
    sites = ("north", "south", "east", "west")
    root = tmp_path / "hospitals"
    for seed, site in enumerate(sites):
        rows = site_writer(root, site, seed=seed)
        if site == "west":
            table_writer(root / site / "manifest.csv", [row | {"text": ""} for row in rows])
    overrides = [
        *tiny_overrides(root),
        f"secagg={secagg}",
        f"strategy/server_optimizer={optimizer}",
        "training=sgd",
        "training.threads=1",
        "strategy.rounds=1",
    ]
    names = None
    models = {}
    for members in (sites, sites[:3]):
        run = RunDir(tmp_path / str(len(members)))
        some = [*overrides, f"data.sites=[{','.join(members)}]"]
        launch_run(RunSpec.compose(some, run))
        models[len(members)] = load_file(run.path / "model.safetensors")
        names = [n for n in models[len(members)] if n.startswith("towers.text.") and ".missing." not in n]
    assert names
    for name in names:
        np.testing.assert_allclose(models[4][name], models[3][name], atol=1e-4 if optimizer == "adam" else 1e-6)
    assert any(not np.allclose(models[4][n], models[3][n], atol=1e-6) for n in models[4] if n.startswith("fusion"))
