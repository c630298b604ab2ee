"""What privacy costs in accuracy, on real hospitals' data, and what a modality and a trained image tower gain under it.

`python -m benchmarks.dp_utility [--only STUDY ...] [--quick] [--data FOLDER]` prints a table and, as its last line, one
JSON object. FOLDER holds fed_heart, fed_derm and image_encoder; what is not there is left out. Studies:

heart     accuracy on FLamby's four hospitals, beside the published curve
derm      pooled AUROC on four sources of skin lesions
finetuned the same at epsilon 8, the image tower's last block trained, less the frozen one
notes     the demo's AUROC with its notes less without, at epsilon 8

Differences are paired over seeds, with a 95 % interval by Student's t.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t as student

# FLamby (Ogier du Terrail et al., NeurIPS 2022), fed_heart_disease: accuracy, mean of 5 seeds, delta 1e-4.
FLAMBY = {"none": 0.712, "1": 0.685, "constant": 0.637}
OPEN = ["secagg=off", "comparison.alone=false", "comparison.centralised=false", "comparison.modalities=false"]
RUN = [*OPEN, "training.threads=1", "evaluation.bootstrap=10"]
# The last block that is used of mobilenet_v2; its batch normalisation keeps the pretrained statistics.
LAST_BLOCK = ["model.image.train=[features.17]", "model.image.norm=freeze"]

Figures = Iterator[tuple[str, float]]


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


def paired(name: str, base: str, first: Sequence[float], second: Sequence[float]) -> Figures:
    """Yield two means over seeds, and their difference with its interval."""
    gains = np.subtract(first, second)
    half = float(student.ppf(0.975, len(gains) - 1)) * gains.std(ddof=1) / np.sqrt(len(gains))
    yield f"{name}", float(np.mean(first))
    yield f"{base}", float(np.mean(second))
    for end, value in (("", gains.mean()), ("_low", gains.mean() - half), ("_high", gains.mean() + half)):
        yield f"{name}_gain{end}", float(value)


def heart(data: Path, scratch: Path, seeds: int) -> Figures:
    """Yield accuracy on FLamby's four hospitals, mean over seeds."""
    base = ["experiment=heart", f"data.root='{data / 'fed_heart'}'", f"data.cache='{scratch / 'cache'}'", *RUN]
    for epsilon in (None, 1.0, 0.1):
        words = [*base, *private(epsilon, "privacy.delta=1e-4")]
        found = [scores([*words, f"seed={seed}"], scratch / f"heart-{epsilon}-{seed}") for seed in range(seeds)]
        name = "none" if epsilon is None else f"{epsilon:g}"
        yield f"heart_accuracy_{name}", float(np.mean([accuracy for _, accuracy in found]))
        yield f"heart_auroc_{name}", float(np.mean([auroc for auroc, _ in found]))


def derm(data: Path, scratch: Path, seeds: int) -> Figures:
    """Yield pooled AUROC on four real sources of skin lesions, frozen ImageNet features, mean over seeds."""
    for epsilon in (None, 8.0, 1.0):
        words = _derm(data, "derm" if epsilon is None else "derm_private", *private(epsilon))
        name = "none" if epsilon is None else f"{epsilon:g}"
        found = [scores([*words, f"seed={seed}"], scratch / f"derm-{epsilon}-{seed}")[0] for seed in range(seeds)]
        yield f"derm_auroc_{name}", float(np.mean(found))


def finetuned(data: Path, scratch: Path, seeds: int) -> Figures:
    """Yield pooled AUROC on skin lesions at epsilon 8, the image tower's last block trained and frozen."""
    words = _derm(data, "derm_private", *private(8.0))
    arms = {"trained": LAST_BLOCK, "frozen": []}
    found = {
        arm: [scores([*words, *more, f"seed={seed}"], scratch / f"{arm}-{seed}")[0] for seed in range(seeds)]
        for arm, more in arms.items()
    }
    yield from paired("derm_auroc_8_last_block", "derm_auroc_8_frozen", found["trained"], found["frozen"])


def notes(data: Path, scratch: Path, seeds: int) -> Figures:
    """Yield the demo's pooled AUROC at epsilon 8 with its notes and without."""
    from fedhealth.cli.run import DEMO_PATIENTS
    from fedhealth.data.synthetic import write_hospitals

    write_hospitals(scratch / "hospitals", patients=DEMO_PATIENTS)
    places = [f"data.root='{scratch / 'hospitals'}'", f"data.cache='{scratch / 'cache'}'"]
    words = ["experiment=demo", *places, *RUN]
    arms = {"with": [], "without": ["model.text=null"]}
    found = {
        arm: [scores([*words, *more, f"seed={seed}"], scratch / f"{arm}-{seed}")[0] for seed in range(seeds)]
        for arm, more in arms.items()
    }
    yield from paired("demo_auroc_8_notes", "demo_auroc_8_no_notes", found["with"], found["without"])


def _derm(data: Path, experiment: str, *more: str) -> list[str]:
    weights = data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"
    places = [f"data.root='{data / 'fed_derm'}'", f"model.image.weights='{weights}'"]
    return [f"experiment={experiment}", *places, *RUN, *more]


# What each study needs of the data folder, and how many seeds it takes.
STUDIES: dict[str, tuple[Callable[[Path, Path, int], Figures], str, int]] = {
    "heart": (heart, "fed_heart", 5),
    "derm": (derm, "fed_derm", 3),
    "finetuned": (finetuned, "fed_derm", 3),
    "notes": (notes, "", 5),
}


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDHEALTH_TEST_DATA", default)))
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), help="default: all but finetuned")
    parser.add_argument("--seeds", type=int, help="at least 2; default: each study's own")
    parser.add_argument("--quick", action="store_true", help="heart alone, two seeds")
    options = parser.parse_args()
    if options.seeds is not None and options.seeds < 2:
        parser.error("--seeds: an interval takes at least 2")
    chosen = options.only or (["heart"] if options.quick else [name for name in STUDIES if name != "finetuned"])
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for study, needs, usual in (STUDIES[name] for name in chosen):
            if needs and not (options.data / needs).is_dir():
                continue
            started = time.monotonic()
            for name, value in study(options.data, Path(folder), options.seeds or (2 if options.quick else usual)):
                found[name] = round(value, 4)
                print(f"{name:32} {value:.3f}  ({time.monotonic() - started:.0f} s)", flush=True)
    if "heart" in chosen:
        for name, value in FLAMBY.items():
            print(f"{f'FLamby heart {name}':32} {value:.3f}  (published accuracy)")
            found[f"flamby_heart_{name}"] = value
    print(json.dumps(found))


if __name__ == "__main__":
    main()
