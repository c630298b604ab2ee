"""A run imports what it uses: what a start costs is mostly imports."""

import subprocess
import sys

CODE = """
import sys
from pathlib import Path
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir

append = RunDir.append_event

def append_and_look(run, kind, **fields):
    if kind == "round_started":
        print([name for name in {late!r} if name in sys.modules])
    append(run, kind, **fields)

RunDir.append_event = append_and_look
launch_run(RunSpec.compose({overrides!r}, RunDir(Path({folder!r}))))
print([name for name in {unused!r} if name in sys.modules])
"""

UNUSED = ["opacus", "dp_accounting", "transformers", "torchvision", "pydicom", "scipy.optimize", "matplotlib.pyplot"]
UNUSED += ["torch._dynamo", "sympy", "sklearn", "ray", "sqlalchemy", "mlflow", "optuna"]
LATE = ["matplotlib", "scipy", "jinja2", "fedhealth.report"]  # for the results alone


def test_a_run_on_tables_imports_nothing_for_images_texts_or_private_training(good_hospitals, tiny_overrides, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), "secagg=off", "strategy.rounds=1", "model.image=null"]
    overrides += ["model.text=null", "data.columns.image=null", "data.columns.text=null"]
    overrides += ["baselines.local_only=false", "baselines.centralised=false"]
    overrides += ["data.split.validation=0", "data.columns.split=null"]  # so nothing is calibrated
    code = CODE.format(overrides=overrides, folder=str(tmp_path / "run"), unused=UNUSED, late=LATE)
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.stdout.split("\n")[:2] == ["[]", "[]"], found.stdout + found.stderr[-2000:]
