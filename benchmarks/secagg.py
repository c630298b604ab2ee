"""Secure aggregation beside Flower's own SecAgg+ functions: same vector, same process, one thread.

    python -m benchmarks.secagg [--quick]

Prints a table and, as the last line, one JSON object.
"""

import argparse
import hashlib
import json
import os
import time
import tracemalloc
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from benchmarks.flower_secagg import CLIP, measure_flower
from benchmarks.timing import measure_seconds
from fedhealth.consortium.roster import Roster
from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.client.site_history import EmptyHistory
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.primitives import masks, packing
from fedhealth.secagg.primitives.layout import WEIGHT_ONE, Segment, make_model_segment
from fedhealth.secagg.primitives.quantize import quantize
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.store import MemoryStore
from fedhealth.secagg.protocol.vector_name import VectorName
from fedhealth.secagg.server import server_protocol, unmasking
from fedhealth.secagg.server.session import ServerSession

VALUES = 11_700_000  # about a ResNet-18
SITES = 8
TARGETS = {
    "protect_speedup": (">=", 6),
    "protect_speedup_16bit": (">=", 9),
    "unmask_speedup": (">=", 6),
    "upload_over_fp32_32bit": ("<=", 1.01),
    "upload_over_fp32_16bit": ("<=", 0.60),
    "limit_ratio": ("<=", 1.5),
    "peak_over_vector": ("<=", 3),
}


def make_update(seed: int) -> np.ndarray:
    """Return one site's update."""
    return np.random.default_rng(seed).normal(0, 0.01, VALUES).astype(np.float32)


class Fleet:
    """n sites and a lead of ours, in memory."""

    def __init__(self, n: int) -> None:
        self.ids = [f"site-{i:03d}" for i in range(n)]
        keys = {name: Ed25519PrivateKey.generate() for name in self.ids}
        roster = Roster.from_keys({name: key.public_key().public_bytes_raw() for name, key in keys.items()})
        config = hashlib.sha256(b"config").digest()
        self.lead = server_protocol.ServerParameters("bench", roster, config)
        self.server = ServerSession(self.lead, MemoryStore())
        self.sites = {
            name: SiteSession(
                SiteCredentials("bench", name, keys[name], roster, config),
                MemoryStore(),
                MemoryStore(),
                StatementBook(MemoryStore(), name, keys[name], roster, EmptyHistory()),
            )
            for name in self.ids
        }
        for name, session in self.sites.items():
            self.server.register(session.announce({"shared": WEIGHT_ONE}), name)

    def segment(self, values: int, bits: int) -> Segment:
        """Describe the vector of a round."""
        n = len(self.ids)
        return make_model_segment(
            "model", "shared", {"weights": values}, bound=CLIP, bits=bits, sites=n, normaliser=n * WEIGHT_ONE
        )

    def open(self, exchange: int, segment: Segment) -> bytes:
        """Start a round; returns TRAIN."""
        digest = hashlib.sha256(exchange.to_bytes(8, "big")).digest()
        return self.server.open_attempt(
            server_protocol.AttemptPlan(
                exchange,
                1,
                VectorName("train", exchange, exchange),
                digest,
                self.ids,
                self.ids,
                (segment,),
                digest,
                digest,
            )
        )

    def accept(self, name: str, descriptor: bytes) -> AttemptContext:
        """Let one site accept TRAIN."""
        found = self.server.context.descriptor
        return self.sites[name].accept(
            descriptor, found.model_digest, found.training_digest, lambda members: found.layout
        )


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
    """Seconds of one site's steps."""

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
    """Time one site's quantize, 8 masks (7 peers and its own) and pack, and its whole upload step."""
    values, segment = make_update(0), Fleet(SITES).segment(VALUES, bits)
    weights = {"weights": values}
    kept = quantize(segment, weights, WEIGHT_ONE)
    keys = [os.urandom(32) for _ in range(SITES)]
    masked = kept.copy()

    def mask() -> None:
        masks.apply_masks(kept.copy(), keys[:4], keys[4:])

    quantizing = measure_seconds(lambda: quantize(segment, weights, WEIGHT_ONE), repeats)
    masking, limit = measure_seconds(mask, repeats), measure_seconds(lambda: generate_masks(masked, SITES), repeats)
    packing_time = measure_seconds(lambda: packing.pack_words(masked, segment), repeats)
    times, size = [], 0
    for _ in range(repeats):
        fleet = Fleet(SITES)
        name = fleet.ids[0]
        context, session = fleet.accept(name, fleet.open(1, segment)), fleet.sites[name]
        start = time.perf_counter()
        head, vectors = session.mask_upload(context, session.quantize(context, {"model": weights}))
        times.append(time.perf_counter() - start)
        size = len(head) + sum(vector.nbytes for vector in vectors.values())
    return Protect(quantizing, masking, packing_time, limit, min(times), size)


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
    start = time.perf_counter()
    opened = fleet.server.open_sums()
    seconds = time.perf_counter() - start
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
        start = time.perf_counter()
        context, session = fleet.accept(name, descriptor), fleet.sites[name]
        head, vectors = session.mask_upload(context, session.quantize(context, {"model": {"weights": np.zeros(1)}}))
        site_times.append(time.perf_counter() - start)
        start = time.perf_counter()
        fleet.server.add_upload(head, vectors, name)
        lead_time += time.perf_counter() - start
    start = time.perf_counter()
    fleet.server.fix_survivors()
    requests = fleet.server.unmask_requests()
    lead_time += time.perf_counter() - start
    for i, name in enumerate(alive):
        start = time.perf_counter()
        answer = fleet.sites[name].reply_unmask(requests[name])
        site_times[i] += time.perf_counter() - start
        start = time.perf_counter()
        fleet.server.add_unmask_reply(answer, name)
        lead_time += time.perf_counter() - start
    start = time.perf_counter()
    fleet.server.open_sums()
    lead_time += time.perf_counter() - start
    return {"share_bytes": len(head), "site": max(site_times), "lead": lead_time}


def print_report(found: dict[str, float]) -> None:
    """Print the table, then the JSON line."""
    print(f"{'measure':34}{'value':>14}  target")
    for key, value in found.items():
        note = ""
        if key in TARGETS:
            sign, target = TARGETS[key]
            met = value >= target if sign == ">=" else value <= target
            note = f"  {sign} {target:g}  {'met' if met else 'MISSED'}"
        print(f"{key:34}{value:>14.6g}{note}")
    print(json.dumps(found))


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    repeats = 3 if parser.parse_args().quick else 7
    wide, narrow = measure_protect(32, repeats), measure_protect(16, repeats)
    flower = measure_flower(SITES, make_update(0), repeats)
    rounds = {(bits, drop): measure_round(bits, drop) for bits in (32, 16) for drop in (0, 2)}
    unmask = {drop: min(measure_round(32, drop)["unmask"], rounds[32, drop]["unmask"]) for drop in (0, 2)}
    peaks = [result["site_peak"] for result in rounds.values()] + [measure_lead_peak(bits) for bits in (32, 16, 20)]
    large = measure_large_cohort()
    fp32 = 4 * VALUES
    print_report(
        {
            "protect_speedup": flower["protect"] / wide.total,
            "protect_speedup_16bit": flower["protect"] / narrow.total,
            "unmask_speedup": min(flower[f"unmask_{drop}"] / unmask[drop] for drop in (0, 2)),
            "upload_over_fp32_32bit": wide.upload_bytes / fp32,
            "upload_over_fp32_16bit": narrow.upload_bytes / fp32,
            "limit_ratio": wide.mask / wide.limit,
            "max_abs_error_32bit": max(rounds[32, drop]["error"] for drop in (0, 2)),
            "max_abs_error_16bit": max(rounds[16, drop]["error"] for drop in (0, 2)),
            "share_bytes_50_sites": large["share_bytes"],
            "round_overhead_50_sites_s": large["site"] + large["lead"],
            "peak_over_vector": max(peaks),
            "flower_protect_s": flower["protect"],
            "protect_s": wide.total,
            "protect_16bit_s": narrow.total,
            "quantize_s": wide.quantize,
            "mask_s": wide.mask,
            "mask_limit_s": wide.limit,
            "whole_upload_speedup": flower["protect"] / wide.whole_upload,
            "whole_upload_speedup_16bit": flower["protect"] / narrow.whole_upload,
            "whole_upload_s": wide.whole_upload,
            "whole_upload_16bit_s": narrow.whole_upload,
            "flower_unmask_2_dropped_s": flower["unmask_2"],
            "unmask_2_dropped_s": unmask[2],
            "flower_unmask_0_dropped_s": flower["unmask_0"],
            "unmask_0_dropped_s": unmask[0],
            "flower_upload_over_fp32": flower["upload"] / fp32,
            "lead_of_50_sites_s": large["lead"],
            "site_of_50_sites_s": large["site"],
        }
    )


if __name__ == "__main__":
    main()
