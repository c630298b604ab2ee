"""What privacy costs in accuracy, on real hospitals' data.

`python -m benchmarks.dp_utility [--quick] [--data FOLDER]` prints a table and, as its last line, one
JSON object. FOLDER holds fed_heart, fed_derm and image_encoder; what is not there is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

# FLamby (Ogier du Terrail et al., NeurIPS 2022), fed_heart_disease: accuracy, mean of 5 seeds, delta 1e-4.
FLAMBY = {"none": 0.712, "1": 0.685, "constant": 0.637}
OPEN = ["secagg=off", "comparison.alone=false", "comparison.centralised=false", "comparison.modalities=false"]
RUN = [*OPEN, "training.threads=1", "evaluation.bootstrap=10"]


def private(epsilon: float | None, *more: str) -> list[str]:
    """Return the words for an epsilon; None = no privacy."""
    return ["privacy=none"] if epsilon is None else ["privacy=patient", f"privacy.epsilon={epsilon}", *more]


def scores(words: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a federation and return the final model's pooled test AUROC and accuracy."""
    from safetensors.numpy import load_file

    from fedhealth.comparison.compare import Bench
    from fedhealth.comparison.pool import pool_predictions
    from fedhealth.config.compose import compose, digest
    from fedhealth.job import Job, config_of
    from fedhealth.launch import launch
    from fedhealth.rundir import RunDir
    from fedhealth.training.predictions import score
    from fedhealth.training.state import set_state

    launch(compose(words), list(words), RunDir(folder))
    bench = Bench.of(config_of(Job("bench", tuple(words), digest(compose(words)), str(folder))))
    set_state(bench.model, load_file(folder / "model.safetensors"))
    pooled = pool_predictions(list(bench.test().values()))
    accuracy = float(((pooled.scores[:, 0] > 0.5) == (pooled.labels[:, 0] == 1)).mean())
    return float(score(pooled, 1)["auroc"].value), accuracy


def heart(data: Path, scratch: Path, seeds: int) -> Iterator[tuple[str, float]]:
    """Yield accuracy on FLamby's four hospitals, mean over seeds."""
    base = ["experiment=heart", f"data.root='{data / 'fed_heart'}'", f"data.cache='{scratch / 'cache'}'", *RUN]
    for epsilon in (None, 1.0, 0.1):
        words = [*base, *private(epsilon, "privacy.delta=1e-4")]
        found = [scores([*words, f"seed={seed}"], scratch / f"heart-{epsilon}-{seed}") for seed in range(seeds)]
        name = "none" if epsilon is None else f"{epsilon:g}"
        yield f"heart_accuracy_{name}", float(np.mean([accuracy for _, accuracy in found]))
        yield f"heart_auroc_{name}", float(np.mean([auroc for auroc, _ in found]))


def derm(data: Path, scratch: Path) -> Iterator[tuple[str, float]]:
    """Yield pooled AUROC on four real sources of skin lesions, frozen ImageNet features."""
    weights = data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"
    shared = [f"data.root='{data / 'fed_derm'}'", f"model.image.weights='{weights}'", *RUN]
    for epsilon in (None, 8.0, 1.0):
        experiment = "derm" if epsilon is None else "derm_private"
        words = [f"experiment={experiment}", *shared, *private(epsilon)]
        name = "none" if epsilon is None else f"{epsilon:g}"
        yield f"derm_auroc_{name}", scores(words, scratch / f"derm-{epsilon}")[0]


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDHEALTH_TEST_DATA", default)))
    parser.add_argument("--quick", action="store_true", help="heart alone, two seeds")
    options = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        studies: list[Iterator[tuple[str, float]]] = []
        if (options.data / "fed_heart").is_dir():
            studies.append(heart(options.data, scratch, 2 if options.quick else 5))
        if not options.quick and (options.data / "fed_derm").is_dir():
            studies.append(derm(options.data, scratch))
        for study in studies:
            started = time.monotonic()
            for name, value in study:
                found[name] = round(value, 4)
                print(f"{name:28} {value:.3f}  ({time.monotonic() - started:.0f} s)", flush=True)
    for name, value in FLAMBY.items():
        print(f"{f'FLamby heart {name}':28} {value:.3f}  (published accuracy)")
    print(json.dumps(found | {f"flamby_heart_{name}": value for name, value in FLAMBY.items()}))


if __name__ == "__main__":
    main()
