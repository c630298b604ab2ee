"""Secure aggregation beside Flower's own SecAgg+ functions: same vector, same process, one thread, processor time.

    python -m benchmarks.secagg [--quick]

Prints a table and, as the last line, one JSON object. `whole_upload_speedup` is the headline: all that a site does from
its update to the bytes of its reply (words, masks, packing, shares, signature, message and hashes), of Flower's over
ours; `protect_speedup` is of quantizing, masking and packing alone. `_16bit`: with words of 16 bits instead of 32.
"""

import argparse
import os
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from benchmarks.flower_secagg import measure_flower
from benchmarks.secagg_fleet import Fleet, build_upload
from benchmarks.targets import Figure, report_figures
from benchmarks.timing import measure_cpu_seconds
from fedhealth.secagg.primitives import masks, packing
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.primitives.quantize import quantize
from fedhealth.secagg.server import server_protocol, unmasking

VALUES = 11_700_000  # about a ResNet-18
SITES = 8
FIGURES = (
    Figure("whole_upload_speedup", ">=", 8),
    Figure("whole_upload_speedup_16bit", ">=", 20),
    Figure("protect_speedup", ">=", 6),
    Figure("protect_speedup_16bit", ">=", 9),
    Figure("unmask_speedup", ">=", 6),
    Figure("upload_over_fp32_32bit", "<=", 1.01),
    Figure("upload_over_fp32_16bit", "<=", 0.60),
    Figure("limit_ratio", "<=", 1.5),
    Figure("peak_over_vector", "<=", 3),
)


def make_update(seed: int) -> np.ndarray:
    """Return one site's update."""
    return np.random.default_rng(seed).normal(0, 0.01, VALUES).astype(np.float32)


def generate_masks(vector: np.ndarray, count: int) -> None:
    """Add keystreams with the fewest instructions: the limit of any implementation on these primitives."""
    size = 2**17
    ciphers = [Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor() for _ in range(count)]
    zeros, buffer = bytes(size), bytearray(size + 16)
    noise = np.frombuffer(buffer, vector.dtype, size // vector.itemsize)
    for at in range(0, len(vector), len(noise)):
        chunk = vector[at : at + len(noise)]
        for cipher in ciphers:
            cipher.update_into(zeros[: chunk.nbytes], buffer)
            chunk += noise[: len(chunk)]


@dataclass(frozen=True)
class Protect:
    """Processor seconds of one site's steps, and the bytes of its upload."""

    quantize: float
    mask: float
    pack: float
    limit: float
    whole_upload: float
    upload_bytes: int

    @property
    def total(self) -> float:
        """Quantize, mask and pack."""
        return self.quantize + self.mask + self.pack


def measure_protect(bits: int, repeats: int) -> Protect:
    """Time one site's quantize, 8 masks (7 peers and its own) and pack, and its whole upload."""
    values, segment = make_update(0), Fleet(SITES).segment(VALUES, bits)
    weights = {"weights": values}
    kept = quantize(segment, weights, WEIGHT_ONE)
    keys = [os.urandom(32) for _ in range(SITES)]
    masked = kept.copy()

    def mask() -> None:
        masks.apply_masks(kept.copy(), keys[:4], keys[4:])

    quantizing = measure_cpu_seconds(lambda: quantize(segment, weights, WEIGHT_ONE), repeats)
    masking = measure_cpu_seconds(mask, repeats)
    limit = measure_cpu_seconds(lambda: generate_masks(masked, SITES), repeats)
    packing_time = measure_cpu_seconds(lambda: packing.pack_words(masked, segment), repeats)
    uploads = [measure_upload(bits, weights) for _ in range(repeats)]
    return Protect(quantizing, masking, packing_time, limit, *min(uploads))


def measure_upload(bits: int, weights: dict[str, np.ndarray]) -> tuple[float, int]:
    """Return the seconds and bytes of one site's whole upload, in a round of its own: masks are used once."""
    fleet = Fleet(SITES)
    name = fleet.ids[0]
    context, session = fleet.accept(name, fleet.open(1, fleet.segment(VALUES, bits))), fleet.sites[name]
    sent = []
    seconds = measure_cpu_seconds(lambda: sent.append(build_upload(session, context, weights)))
    return seconds, len(sent[0].header) + len(sent[0].tree) + sum(map(len, sent[0].objects.values()))


def measure_round(bits: int, dropped: int) -> dict[str, float]:
    """Run one round with full vectors; returns the lead's unmask time, the error and both peaks of extra memory."""
    fleet = Fleet(SITES)
    segment = fleet.segment(VALUES, bits)
    descriptor = fleet.open(1, segment)
    alive, peaks, mean = fleet.ids[: SITES - dropped], [], np.zeros(VALUES)
    for i, name in enumerate(alive):
        values, session = make_update(i), fleet.sites[name]
        mean += values / len(alive)
        context = fleet.accept(name, descriptor)
        tracemalloc.start()
        head, vectors = session.mask_upload(context, session.quantize(context, {"model": {"weights": values}}))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        fleet.server.add_upload(head, vectors, name)
    fleet.server.fix_survivors()
    requests = fleet.server.unmask_requests()
    for name in alive:
        fleet.server.add_unmask_reply(fleet.sites[name].reply_unmask(requests[name]), name)
    start = time.process_time()
    opened = fleet.server.open_sums()
    seconds = time.process_time() - start
    error = np.abs(opened.vectors["model"]["weights"] - mean).max()
    return {"unmask": seconds, "error": float(error), "site_peak": max(peaks) / (4 * VALUES)}


def measure_lead_peak(bits: int) -> float:
    """Return the lead's peak memory from folding to opening, over the vector's size; uploads not counted."""
    fleet = Fleet(SITES)
    segment = fleet.segment(VALUES, bits)
    descriptor = fleet.open(1, segment)
    uploads = {}
    for name in fleet.ids:
        context, session = fleet.accept(name, descriptor), fleet.sites[name]
        kept = session.quantize(context, {"model": {"weights": np.zeros(VALUES, np.float32)}})
        uploads[name] = session.mask_upload(context, kept)
    tracemalloc.start()
    attempt = server_protocol.start_attempt(fleet.server.context)
    for name, (head, vectors) in uploads.items():
        attempt = server_protocol.add_upload(fleet.lead, attempt, head, vectors, name)
    state = unmasking.fix_survivors(fleet.lead, attempt, server_protocol.find_survivors(attempt))
    for name in fleet.ids:
        answer = fleet.sites[name].reply_unmask(unmasking.build_unmask_request(state, name))
        state = unmasking.add_unmask_reply(fleet.lead, state, answer, name)
    unmasking.open_sums(state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (4 * VALUES)


def measure_large_cohort(n: int = 50) -> dict[str, float]:
    """Time everything of a round but the vectors: as many drop out as may, and the vector has one value."""
    fleet = Fleet(n)
    segment = fleet.segment(1, 32)
    descriptor = fleet.open(1, segment)
    t = fleet.server.context.descriptor.threshold
    alive, site_times, lead_time, head = fleet.ids[:t], [], 0.0, b""
    for name in alive:
        start = time.process_time()
        context, session = fleet.accept(name, descriptor), fleet.sites[name]
        head, vectors = session.mask_upload(context, session.quantize(context, {"model": {"weights": np.zeros(1)}}))
        site_times.append(time.process_time() - start)
        start = time.process_time()
        fleet.server.add_upload(head, vectors, name)
        lead_time += time.process_time() - start
    start = time.process_time()
    fleet.server.fix_survivors()
    requests = fleet.server.unmask_requests()
    lead_time += time.process_time() - start
    for i, name in enumerate(alive):
        start = time.process_time()
        answer = fleet.sites[name].reply_unmask(requests[name])
        site_times[i] += time.process_time() - start
        start = time.process_time()
        fleet.server.add_unmask_reply(answer, name)
        lead_time += time.process_time() - start
    start = time.process_time()
    fleet.server.open_sums()
    lead_time += time.process_time() - start
    return {"share_bytes": len(head), "site": max(site_times), "lead": lead_time}


def measure_figures(repeats: int) -> Iterator[tuple[str, float]]:
    """Yield (name, value), the whole upload first."""
    wide, narrow = measure_protect(32, repeats), measure_protect(16, repeats)
    flower, fp32 = measure_flower(SITES, make_update(0), repeats), 4 * VALUES
    yield "whole_upload_speedup", flower["whole_upload"] / wide.whole_upload
    yield "whole_upload_speedup_16bit", flower["whole_upload"] / narrow.whole_upload
    yield "flower_whole_upload_s", flower["whole_upload"]
    yield "whole_upload_s", wide.whole_upload
    yield "whole_upload_16bit_s", narrow.whole_upload
    yield "protect_speedup", flower["protect"] / wide.total
    yield "protect_speedup_16bit", flower["protect"] / narrow.total
    yield "flower_protect_s", flower["protect"]
    yield "protect_s", wide.total
    yield "protect_16bit_s", narrow.total
    yield "quantize_s", wide.quantize
    yield "mask_s", wide.mask
    yield "mask_limit_s", wide.limit
    yield "limit_ratio", wide.mask / wide.limit
    yield "upload_over_fp32_32bit", wide.upload_bytes / fp32
    yield "upload_over_fp32_16bit", narrow.upload_bytes / fp32
    yield "flower_upload_over_fp32", flower["upload"] / fp32
    yield from measure_rounds(flower)


def measure_rounds(flower: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Yield what whole rounds show: unmasking beside Flower's, errors, memory, and a large cohort."""
    rounds = {(bits, drop): measure_round(bits, drop) for bits in (32, 16) for drop in (0, 2)}
    unmask = {drop: min(measure_round(32, drop)["unmask"], rounds[32, drop]["unmask"]) for drop in (0, 2)}
    yield "unmask_speedup", min(flower[f"unmask_{drop}"] / unmask[drop] for drop in (0, 2))
    for drop in (2, 0):
        yield f"flower_unmask_{drop}_dropped_s", flower[f"unmask_{drop}"]
        yield f"unmask_{drop}_dropped_s", unmask[drop]
    for bits in (32, 16):
        yield f"max_abs_error_{bits}bit", max(rounds[bits, drop]["error"] for drop in (0, 2))
    peaks = [result["site_peak"] for result in rounds.values()] + [measure_lead_peak(bits) for bits in (32, 16, 20)]
    yield "peak_over_vector", max(peaks)
    large = measure_large_cohort()
    yield "share_bytes_50_sites", large["share_bytes"]
    yield "round_overhead_50_sites_s", large["site"] + large["lead"]
    yield "lead_of_50_sites_s", large["lead"]
    yield "site_of_50_sites_s", large["site"]


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    report_figures(measure_figures(3 if parser.parse_args().quick else 7), FIGURES)


if __name__ == "__main__":
    main()
