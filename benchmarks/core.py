"""Core benchmarks: time of the demo, speed-up by the cache, memory of both runtimes, their agreement.

`python -m benchmarks.core [--quick]` prints a table and, as its last line, one JSON object:

- epoch2_over_epoch1: seconds spent on data in the second epoch, from the cache, over those in the first.
- server_peak, local_peak: of the lead's side alone and of a whole run of `runtime=local`, with a model of 47 MB;
  local_models_per_site: what each further virtual site adds, over the model.
- runtime_local_peak, runtime_simulation_peak: of all processes of the same small run on both runtimes; pages that
  processes share count once.
- runtime_agreement: the largest difference between their final models, without secure aggregation;
  runtime_agreement_sealed: with it, where every site rounds at random.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.in_process import call_in_process
from benchmarks.peers_usage import measure_command
from benchmarks.scale_run import make_words
from benchmarks.scale_run import write_hospitals as write_table
from benchmarks.targets import Figure, report_figures

FIGURES = (
    Figure("epoch2_over_epoch1", "<=", 0.2),
    Figure("server_peak_64_over_4_sites", "<=", 1.2),
    Figure("local_models_per_site", "<=", 0.3),
    Figure("local_over_simulation_peak", "<=", 0.5),
    Figure("runtime_agreement", "<=", 0),
)
RUN_LIMIT = 600.0  # seconds

MODEL_VALUES = 11_700_000  # 47 MB of float32
FEW, SOME, MANY = 4, 16, 64  # sites
SYNTHETIC_PATIENTS = 120
TINY = [
    "baselines.local_only=false",
    "baselines.centralised=false",
    "baselines.modalities=false",
    "strategy.rounds=2",
    "training=sgd",
    "training.local_steps=4",
    "evaluation.bootstrap=10",
]


def measure_demo_seconds(folder: Path) -> float:
    """Return the total wall time of `fedhealth demo`."""
    started = time.perf_counter()
    command = [str(Path(sys.executable).with_name("fedhealth")), "demo", "--folder", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure_epoch_seconds(folder: Path) -> tuple[float, float]:
    """Return the seconds spent on data in the first epoch (decoding, caching, gathering) and in the second."""
    from fedhealth.config.compose import compose_config, compute_config_digest
    from fedhealth.config.quoting import quote_value
    from fedhealth.data.dataset import prepare_dataset
    from fedhealth.data.examples import build_examples, iterate_batches
    from fedhealth.data.synthetic import write_hospitals
    from fedhealth.protocol.job import Job, compose_job_config

    write_hospitals(folder / "hospitals", patients=SYNTHETIC_PATIENTS)
    overrides = [f"data.root={quote_value(folder / 'hospitals')}", f"data.cache={quote_value(folder / 'cache')}"]
    config = compose_job_config(
        Job("bench", tuple(overrides), compute_config_digest(compose_config(overrides)), str(folder))
    )
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        for site in config.data.sites:
            cohort = prepare_dataset(config.data, site)
            rows = cohort.rows("train")
            examples = build_examples(cohort, frozenset({"image", "tabular"}), None)
            batches = iterate_batches(rows, 32, np.random.default_rng(0))
            for _ in range(-(-len(rows) // 32)):
                examples.batch(next(batches))
        seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]


def _send_updates(pipe: Connection) -> None:
    """Reply to each request with a new 47 MB update; simulates the sites in a separate process."""
    generator = np.random.default_rng(0)
    while pipe.recv() is not None:
        pipe.send_bytes(generator.standard_normal(MODEL_VALUES, dtype=np.float32).tobytes())


def _run_server(sites: int, result: Connection) -> None:
    """Run two rounds of the server side only and send its peak memory in MB."""
    from flwr.app import Message, RecordDict
    from flwr.clientapp import ClientApp

    from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
    from fedhealth.protocol.array_codec import pack_arrays, to_array_record
    from fedhealth.protocol.messages import ACCEPTANCE, EVALUATE, HANDSHAKE, STATISTICS, TRAIN, UPDATE, Acceptance
    from strategies.aggregation.mean import WeightedMean
    from strategies.fedavg import FedAvg
    from strategies.participants import Participation
    from strategies.round_request import RunIdentity
    from strategies.server_optimizers.averaging import Averaging

    own, other = multiprocessing.get_context("spawn").Pipe()
    feeder = multiprocessing.get_context("spawn").Process(target=_send_updates, args=(other,), daemon=True)
    feeder.start()
    app = ClientApp()
    names = [f"site{index}" for index in range(sites)]

    def answer(message: Message, context: object) -> Message:
        if message.metadata.message_type == HANDSHAKE:
            name = names[message.metadata.dst_node_id - 1]
            return Message(
                RecordDict({ACCEPTANCE: Acceptance(name, (), {"shared": 100}, "").record()}), reply_to=message
            )
        reply = RecordDict({STATISTICS: pack_arrays({"train.examples": np.array([100]), "train.loss": np.array([1])})})
        if message.metadata.message_type == TRAIN:
            own.send(1)
            reply[UPDATE] = pack_arrays({"weights": np.frombuffer(own.recv_bytes(), np.float32)})
        return Message(reply, reply_to=message)

    for name in ("train", "evaluate", "query"):
        getattr(app, name)({"train": "fit", "evaluate": "score", "query": "handshake"}[name])(answer)
    told = {kind: {"train.examples": (1,), "train.loss": (1,)} for kind in (TRAIN, EVALUATE)}
    initial = to_array_record({"weights": np.zeros(MODEL_VALUES, np.float32)})
    parts = (Participation(tuple(names)), WeightedMean(), Averaging())
    strategy = FedAvg(RunIdentity("bench", ""), *parts, statistics=told)
    strategy.start(InProcessGrid(reply_in_turn(app), names, {}), initial, num_rounds=2)
    own.send(None)
    result.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure_server_peak_mb(sites: int) -> float:
    """Return the server's peak memory, measured in a fresh process without sites."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe(duplex=False)
    process = context.Process(target=_run_server, args=(sites, other))
    process.start()
    peak = float(own.recv())
    process.join()
    return peak


def measure_local_peak_mb(sites: int) -> float:
    """Return the peak memory of a whole run of `runtime=local` with a 47 MB model, in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = [*write_table(folder / "data", sites), *make_words(MODEL_VALUES), "training=sgd", "secagg=off"]
        return measure_run_mb(folder / "run", [*overrides, "strategy.rounds=2"])


def measure_run_mb(target: Path, overrides: Sequence[str]) -> float:
    """Return the peak memory of `fedhealth run` and all its processes, in MB."""
    target.mkdir()
    command = [str(Path(sys.executable).with_name("fedhealth")), "run", *overrides, f"hydra.run.dir='{target}'"]
    return measure_command(command, os.environ, target, RUN_LIMIT).memory / 2**20


def compare_runtimes(folder: str, secagg: str) -> dict[str, float]:
    """Run the same on both runtimes, with steps of SGD; Adam would divide the last bits by gradients close to zero.

    Returns:
        the peak memory of each runtime in MB, and `difference`, the largest one between their final models.

    """
    from safetensors.numpy import load_file

    root = Path(folder)
    data = [f"data.root='{root / 'hospitals'}'", f"data.cache='{root / 'cache'}'"]
    states: list[Mapping[str, np.ndarray]] = []
    found = {}
    for runtime in ("local", "simulation"):
        target = root / f"{runtime}-{secagg}"
        found[runtime] = measure_run_mb(target, [*data, *TINY, f"secagg={secagg}", f"runtime={runtime}"])
        states.append(load_file(target / "model.safetensors"))
    one, other = states
    return found | {"difference": max(float(np.abs(one[name] - other[name]).max()) for name in one)}


def measure_figures(folder: Path, *, quick: bool) -> Iterator[tuple[str, float]]:
    """Yield (name, value) as they are measured."""
    if not quick:
        yield "demo_seconds", measure_demo_seconds(folder / "demo")
    first, second = measure_epoch_seconds(folder)
    yield "epoch2_over_epoch1", second / first
    few, many = (call_in_process("benchmarks.core.measure_server_peak_mb", sites) for sites in (FEW, MANY))
    yield "server_peak_mb_4_sites", few
    yield "server_peak_mb_64_sites", many
    yield "server_peak_64_over_4_sites", many / few
    sites = (FEW, SOME if quick else MANY)
    few, many = (call_in_process("benchmarks.core.measure_local_peak_mb", each) for each in sites)
    yield f"local_peak_mb_{sites[0]}_sites", few
    yield f"local_peak_mb_{sites[1]}_sites", many
    yield "local_models_per_site", (many - few) * 2**20 / (sites[1] - sites[0]) / (4 * MODEL_VALUES)
    opened, sealed = (
        call_in_process("benchmarks.core.compare_runtimes", str(folder), secagg) for secagg in ("off", "on")
    )
    yield "runtime_local_peak_mb", opened["local"]
    yield "runtime_simulation_peak_mb", opened["simulation"]
    yield "local_over_simulation_peak", opened["local"] / opened["simulation"]
    yield "runtime_agreement", opened["difference"]
    yield "runtime_agreement_sealed", sealed["difference"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="without the demo, and with fewer sites")
    quick = parser.parse_args().quick
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    with tempfile.TemporaryDirectory() as folder:
        report_figures(measure_figures(Path(folder), quick=quick), FIGURES)


if __name__ == "__main__":
    main()
