"""One private site under any lead, power cut, failure and partial restore; an observer notes all that leaves it.

Everything is the site's own code, from the message to the egress gate and the ledger, except two things that only cost
time: a training step draws the update instead of computing gradients, and secure aggregation masks with a pad that the
observer knows.
"""

import copy
import hashlib
import io
import logging
import os
import zipfile
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clients import app, site_setup
from clients.institution import Institution
from clients.merge import StateMerger
from clients.release import ReleaseRecorder
from clients.reservation import reserve_sweep_budget
from clients.run_model import RunModel
from clients.transport.base import compute_request_digest
from clients.transport.secure import SecureTransport
from clients.transport.secure_attempt import SecureAttempt
from fedhealth.config.instantiate import instantiate
from fedhealth.models.modality_keys import SHARED, get_tower
from fedhealth.privacy import statistics_release
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.release import record_failure
from fedhealth.protocol.array_codec import get_arrays, unpack_arrays
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.protocol.count_codec import unpack_counts
from fedhealth.protocol.messages import (
    DATA_KINDS,
    EVALUATE,
    PURPOSES,
    SEALED,
    SECAGG,
    STATISTICS,
    TRAIN,
    UPDATE,
    digest_arrays,
)
from fedhealth.secagg.primitives.layout import VectorSpec, make_model_segment, make_statistics_segment
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.secagg.protocol.vector_name import VectorName
from fedhealth.site.egress_gate import ArrayRecordSchema, ConfigRecordSchema, EgressGate
from fedhealth.statistics.shapes import get_statistic_shapes
from fedhealth.training import dpsgd_trainer, optimizers
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from tests.clients.power_cut import PowerCutError, cut_power_at
from tests.clients.private_site import PrivateSite

DATASET, STALENESS = "tiny", 0.5
OVERRIDES = (f"strategy.staleness={STALENESS}", "strategy.rounds=4", "training.threads=1")
CUTS = {  # what happens last before a power cut: owner, method, whether the method still runs
    "book": (PrivacyBudget, "book", True),
    "train": (StateMerger, "save_round", False),
    "local state": (StateMerger, "save_round", True),
    "words": (ReleaseRecorder, "record", False),
    "release": (ReleaseRecorder, "record", True),
    "reply": (EgressGate, "check", True),
}


@dataclass(frozen=True)
class Draw:
    """Noise that was drawn once: the booking that was open, its event and the noised values."""

    run: str
    booking: int
    event: object
    values: bytes


@dataclass(frozen=True)
class Departure:
    """A reply that passed the gate: the draws that it was made of, and the release that the site names."""

    run: str
    draws: frozenset
    digest: str


SHARED_PARTS = ("cohort", "examples", "training_data", "shared_shapes")


@dataclass
class Books:
    """A site and its observer.

    Args:
        site: of the template; its folder is empty.
        shared: cached parts of the site's set-up that do not depend on the run.

    """

    site: PrivateSite
    shared: dict
    draws: list = field(default_factory=list)
    left: list = field(default_factory=list)
    backups: list = field(default_factory=list)
    pads: dict = field(default_factory=dict)
    booked: Any = None
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def folder(self):
        return self.site.folder

    @property
    def entries(self):
        return self.site.entries

    # --- what a lead, a power line and an administrator may do ---

    def train(self, run="run", number=1, change=0.0, missed=False, cut=None):
        """Ask for a round, in a new exchange; `cut` is the step after which the power fails."""
        missed = (self.site_name,) if missed else ()
        self._interrupt(cut, lambda: self.site.send(TRAIN, number, change, run=run, missed=missed))

    def evaluate(self, run="run", cut=None):
        self._interrupt(cut, lambda: self.site.send(EVALUATE, self.site.rounds, run=run))

    def fail(self, run="run", number=1):
        """A task fails after its training; an error reply leaves."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StateMerger, "compute_update", lambda *_: 1 / 0)
            self.site.train(number, change=9.0, run=run)

    def lose_worker(self, run="run", number=1, cut="words"):
        """The worker dies; its daemon records that before the error reply leaves."""
        self.train(run, number, cut=cut)
        record_failure(self.folder, run, [DATASET])

    def back_up(self):
        """Copy the site's files, except its ledger."""
        copied = {path: path.read_bytes() for path in self.folder.rglob("*") if self._may_come_back(path)}
        self.backups.append(copied)

    def restore(self, number=0):
        """Put the files of a backup back, except the ledger."""
        if self.backups:
            for path, content in self.backups[number % len(self.backups)].items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.site.restart()

    def damage(self, number=0):
        """One of the stored files loses its last byte."""
        files = sorted(path for path in self.folder.rglob("*") if self._may_come_back(path) and path.stat().st_size)
        if files:
            path = files[number % len(files)]
            path.write_bytes(path.read_bytes()[:-1])

    def reserve(self, runs=("run",)):
        """A sweep asks for a reservation of these runs; without any, it cancels."""
        jobs = [replace(self.site.job, run=run) for run in runs]
        request = BudgetRequest("sweep1234567", 1e6, ())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("clients.reservation.compose_job_config", app.compose_job_config)
            patch.setattr("clients.reservation.Institution", app.Institution)
            reserve_sweep_budget(app.get_virtual_site(self.site._context, self.site.job), jobs, request, 2e9)

    # --- how it is watched ---

    @property
    def site_name(self):
        return "north"

    def watch(self, stack):
        """Put the observer and the quick parts in place, until the stack closes."""
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        config = self.shared["config"]
        patch.setattr(os, "fsync", lambda handle: None)  # slow
        patch.setattr(app, "compose_job_config", lambda job: config)
        made = {}  # by node of the configuration, which is the same for all sites of a template

        def instantiate_once(node):
            if id(node) not in made:
                made[id(node)] = instantiate(node)
            return made[id(node)]

        patch.setattr(site_setup, "instantiate", instantiate_once)
        patch.setattr(optimizers, "instantiate", instantiate_once)
        patch.setattr(app, "Institution", self._build_institution)
        patch.setattr(DPSGDTrainer, "_build_sampler", lambda trainer, task, plan: [()] * plan.steps)
        patch.setattr(dpsgd_trainer, "take_private_step", self._draw_step)
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)  # tracebacks take longer than all the rest
        genuine_book, genuine_fit, genuine_check = PrivacyBudget.book, DPSGDTrainer.fit, EgressGate.check

        def book(budget, ledger, plan, accounting, event):
            self.booked = genuine_book(budget, ledger, plan, accounting, event)
            return self.booked

        def fit(trainer, task, accounting=None):
            before = self._get_weights(task.model)
            report = genuine_fit(trainer, task, accounting)
            self._note_draw(self._get_weights(task.model) - before)
            return report

        def check(gate, kind, directive, content, schema, receipt=None):
            genuine_check(gate, kind, directive, content, schema, receipt)
            if kind in DATA_KINDS:
                self._note_departure(directive.run, content, receipt.digest if receipt else "")

        patch.setattr(PrivacyBudget, "book", book)
        patch.setattr(DPSGDTrainer, "fit", fit)
        patch.setattr(EgressGate, "check", check)
        patch.setattr(statistics_release, "noise_histograms", self._draw_histograms)
        patch.setattr(SecureTransport, "_secrets", lambda transport, run: _open_secrets(run))
        patch.setattr(SecureTransport, "accept_attempt", self._accept_masked_attempt)
        patch.setattr(SecureTransport, "get_reply_schema", self._describe_masked_reply)

    def _interrupt(self, cut, ask):
        if cut is None:
            ask()
            return
        with pytest.MonkeyPatch.context() as patch:
            cut_power_at(patch, *CUTS[cut])
            try:
                ask()
            except PowerCutError:
                self.site.restart()

    def _build_institution(self, site, config, digest, run_model=None):
        institution = Institution(site, config, digest, self.shared["run_model"])
        institution.setup.__dict__.update({name: self.shared[name] for name in SHARED_PARTS})
        return institution

    def _may_come_back(self, path):
        ledger = get_ledger_path(self.folder, DATASET)
        return path.is_file() and not path.name.startswith(ledger.stem) and path.name != "release.key"

    def _draw_step(self, engine, optimizer, batches):
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    drawn = self.generator.standard_normal(parameter.shape, np.float32)
                    parameter += torch.from_numpy(np.asarray(drawn))

    def _get_weights(self, model):
        return np.concatenate([p.detach().numpy().ravel() for _, p in self._get_parameters(model)])

    def _get_parameters(self, model):
        return sorted((name, p) for name, p in model.named_parameters() if p.requires_grad)

    def _draw_histograms(self, histograms, noise_multiplier, noise, subgroup_share=None):
        found = {name: self.generator.integers(0, 2**40, counts.shape) for name, counts in histograms.items()}
        self._note_draw(found["test.positives"])
        return found

    def _note_draw(self, values):
        self.draws.append(Draw(self.booked.run, self.booked.number, self.booked.event, values.tobytes()))

    def _note_departure(self, run, content, digest):
        update, statistics = self._read_reply(content)
        if not (update or statistics):
            return
        if update:
            names = [name for name, _ in self._get_parameters(self.shared["run_model"].model)]
            found = self._find_draws(np.concatenate([update[name].ravel() for name in names]))
        else:
            found = {draw for draw in self.draws if draw.values == statistics["test.positives"].tobytes()}
        assert found, "a reply left that no draw explains"
        self.left.append(Departure(run, frozenset(found), digest))

    def _find_draws(self, values):
        """Return the draws of an update: one, or one and the discounted one of the round before."""
        for own in self.draws:
            if own.values == values.tobytes():
                return {own}
        trained = [draw for draw in self.draws if len(draw.values) == values.nbytes]
        for own in trained:
            rest = values - np.frombuffer(own.values, np.float32)
            for late in trained:
                if np.allclose(rest, np.float32(STALENESS) * np.frombuffer(late.values, np.float32), atol=1e-4):
                    return {own, late}
        return set()

    # --- secure aggregation with pads that the observer knows ---

    def _accept_masked_attempt(self, run, message, incoming, recorder, shapes, digest_initial):
        """Accept everything; the same request is about the same vector. No round leaves local state here."""
        repetition = int(compute_request_digest(run, message, incoming)[:15], 16)
        vector = VectorName(PURPOSES[message.kind], message.directive.round, repetition)
        model, digest = digest_arrays(incoming), hashlib.sha256(repr(vector).encode()).digest()
        descriptor = SimpleNamespace(vector=vector, history=bytes(32), model_digest=model, vector_digest=digest)
        context = SimpleNamespace(layout=self._make_layout(message.kind), descriptor=descriptor)
        context.owned_segments = lambda site: context.layout
        session = MaskingSession(run.site.folder / "quantized.npz", self.pads)
        history = SimpleNamespace(list_rounds=lambda head: [], list_opened=set)
        return SecureAttempt(session, _open_secrets(run), context, run, recorder, history)

    def _make_layout(self, kind):
        layers, config = {}, self.shared["config"]
        for name, shape in self.shared["shared_shapes"].items() if kind == TRAIN else ():
            layers.setdefault(get_tower(name), {})[name] = int(np.prod(shape))
        segments = [
            make_model_segment(tower, tower, lengths, bound=1.0, bits=32, sites=3, normaliser=1)
            for tower, lengths in layers.items()
        ]
        shapes = get_statistic_shapes(config)[kind]
        entries = tuple(VectorSpec(name, int(np.prod(shape)), 1.0, 1.0) for name, shape in shapes.items())
        return [*segments, make_statistics_segment(STATISTICS, SHARED, entries, sites=3)]

    def _describe_masked_reply(self, run, kind, shapes):
        sizes = {segment.name: (segment.wire_bytes,) for segment in self._make_layout(kind)}
        return {SECAGG: ConfigRecordSchema({"head": lambda _: True}), SEALED: ArrayRecordSchema(sizes, "|u1")}

    def _read_reply(self, content):
        if SEALED not in content:
            parts = (UPDATE, STATISTICS)
            return [unpack_counts(get_arrays(content, part)) if part in content else {} for part in parts]
        kind, pad = self.pads[bytes(content[SECAGG]["head"])]
        update, statistics = {}, {}
        for segment in self._make_layout(kind):
            masked = unpack_arrays(get_arrays(content, SEALED))[segment.name]
            plain = (masked ^ pad[segment.name]).view(np.float32 if segment.kind == "model" else np.int64)
            start = 0
            for entry in segment.entries:
                target = update if segment.kind == "model" else statistics
                target[entry.name] = plain[start : start + entry.length]
                start += entry.length
        return update, statistics if any(values.any() for values in statistics.values()) else {}


class MaskingSession:
    """The part of a site's session of secure aggregation that stores words and masks them."""

    def __init__(self, path, pads):
        self._path, self._pads = path, pads

    def quantize(self, context, vectors, out):
        kinds = {segment.name: np.float32 if segment.kind == "model" else np.int64 for segment in context.layout}
        digests = {segment.name: segment.digest for segment in context.layout}
        order = {segment.name: [entry.name for entry in segment.entries] for segment in context.layout}
        joined = {
            name: np.concatenate([parts[entry] for entry in order[name]]).astype(kinds[name])
            for name, parts in vectors.items()
        }
        return SimpleNamespace(segments={name: (digests[name], joined[name], 0) for name in joined})

    def save_quantized(self, quantized):
        content = io.BytesIO()
        arrays = {name: array for name, (_, array, _) in quantized.segments.items()}
        digests = {f"digest {name}": np.frombuffer(each[0], np.uint8) for name, each in quantized.segments.items()}
        np.savez(content, **arrays, **digests)
        self._path.write_bytes(content.getvalue())

    def load_quantized(self):
        if not self._path.is_file():
            return None
        try:
            with np.load(io.BytesIO(self._path.read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except zipfile.BadZipFile:
            return None
        names = [name for name in arrays if not name.startswith("digest ")]
        return SimpleNamespace(segments={name: (arrays[f"digest {name}"].tobytes(), arrays[name], 0) for name in names})

    def delete_quantized(self):
        self._path.unlink(missing_ok=True)

    def mask_upload(self, context, quantized, out):
        head = len(self._pads).to_bytes(4, "big")
        pad = {name: np.frombuffer(os.urandom(len(place)), np.uint8) for name, place in out.items()}
        for name, (_, array, _) in quantized.segments.items():
            out[name][: array.nbytes] = array.view(np.uint8).reshape(-1)
            out[name] ^= pad[name]
        kind = TRAIN if any(segment.kind == "model" for segment in context.layout) else EVALUATE
        self._pads[head] = kind, pad
        return head, out


def build_template(folder, overrides, *more):
    """Return a site and the parts of its set-up that every later site of the same configuration shares."""
    site = PrivateSite(folder, overrides, *OVERRIDES, *more)
    config = app.compose_job_config(site.job)
    model = RunModel(config)
    setup = Institution(app.get_virtual_site(site._context, site.job), config, site.job.digest, model).setup
    parts = {name: getattr(setup, name) for name in SHARED_PARTS}
    return site, {"config": config, "run_model": model, **parts}


def open_books(template, folder):
    """Return new books of a site below an empty folder."""
    site, shared = template
    fresh = copy.copy(site)
    fresh.job, fresh.folder, fresh.exchange = replace(site.job, folder=str(folder)), folder / "sites" / "north", 0
    return Books(fresh, shared)


def _open_secrets(run):
    return FileStore(run.site.folder / "secrets")
