"""Our contestant of `benchmarks.peers`: `fedhealth run` on this machine; what its run directory tells afterwards."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers_contestants.task import BATCH, CLIP, MOMENTUM, NOISE, RATE, ROUNDS, SIDE, SITES, STEPS
from benchmarks.peers_tasks import VARIABLES

# The others compute no baselines, no intervals and no audit.
_COMMON = [
    "data.manifest=patients.csv",
    "data.site_column=hospital",
    f"data.sites=[{','.join(SITES)}]",
    "data.split.validation=0",
    "model.text=null",
    "~data.tabular.sex",
    "model.fusion.dropout=0",
    "training=sgd",
    f"training.optimizer.lr={RATE}",
    f"training.optimizer.momentum={MOMENTUM}",
    "training.optimizer.weight_decay=0",
    f"training.local_steps={STEPS}",
    f"training.batch_size={BATCH}",
    "training.threads=1",
    f"strategy.rounds={ROUNDS}",
    "strategy.select=last",
    "baselines.local_only=false",
    "baselines.centralised=false",
    "evaluation.bootstrap=10",
    "evaluation.audit=false",
]
_COLUMNS = "data.columns={{patient: patient, study: null, image: {image}, text: null, labels: [label], split: split}}"
_WITHOUT = [f"~data.tabular.{name}" for name in VARIABLES]
_KINDS = {
    "tabular": ["model.image=null", _COLUMNS.format(image="null")],
    "image": ["model.tabular=null", _COLUMNS.format(image="image"), f"data.image.size={SIDE}", *_WITHOUT],
}
_VARIANTS = {
    "plain": ["privacy=none", "secagg=off"],
    "secagg": ["privacy=none", "secagg=on"],
    "dp": [
        "privacy=patient",
        "secagg=off",
        "privacy.max_records_per_patient=1",
        f"privacy.noise_multiplier={NOISE}",
        f"privacy.max_grad_norm={CLIP}",
    ],
}


def make_command(kind: str, variant: str, data: Path, out: Path) -> list[str]:
    """Return the command line of a run on the data below a folder, with its results in another."""
    places = [f"data.root='{data}'", f"data.cache='{data / 'cache'}'", f"hydra.run.dir='{out / 'run'}'"]
    fedhealth = str(Path(sys.executable).with_name("fedhealth"))
    return [fedhealth, "run", *places, *_COMMON, *_KINDS[kind], *_VARIANTS[variant]]
