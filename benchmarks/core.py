"""Core benchmarks: time of the demo, speed-up by the cache, memory of the server, agreement of the runtimes.

`python -m benchmarks.core [--quick]` prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

MODEL_VALUES = 11_700_000  # 47 MB of float32
SYNTHETIC_PATIENTS = 120
TINY = [
    "baselines.local_only=false",
    "baselines.centralised=false",
    "baselines.modalities=false",
    "strategy.rounds=2",
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


def compare_runtimes(folder: Path) -> float:
    """Return the largest difference between the final models of runtime=local and runtime=simulation."""
    from safetensors.numpy import load_file

    data = [f"data.root={folder / 'hospitals'}", f"data.cache={folder / 'cache'}"]
    states: list[Mapping[str, np.ndarray]] = []
    for runtime in ("local", "simulation"):
        target = folder / runtime
        command = [str(Path(sys.executable).with_name("fedhealth")), "run", *data, *TINY]
        command += [f"runtime={runtime}", f"hydra.run.dir={target}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        states.append(load_file(target / "model.safetensors"))
    return max(float(np.abs(states[0][name] - states[1][name]).max()) for name in states[0])


def run_measurements(folder: Path) -> Iterator[tuple[str, float, str]]:
    """Yield (key, value, target) as they are measured."""
    yield "demo_seconds", measure_demo_seconds(folder / "demo"), "< 120"
    first, second = measure_epoch_seconds(folder)
    yield "epoch2_over_epoch1", second / first, "<= 0.2"
    few, many = measure_server_peak_mb(4), measure_server_peak_mb(64)
    yield "server_peak_mb_4_sites", few, ""
    yield "server_peak_mb_64_sites", many, f"<= {1.2 * few:.0f} (1.2 x 4 sites)"
    yield "runtime_agreement", compare_runtimes(folder), "<= 1e-5"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no effect: this benchmark has one size")
    parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for key, value, target in run_measurements(Path(folder)):
            results[key] = round(value, 6)
            print(f"{key:28} {value:12.4g}   {target}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
