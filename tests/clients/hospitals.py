"""Whole hospitals (homes, keys, policies, ledgers, gates) and a lead that may lie to them in any exchange."""

import time

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from clients.app import get_job_cache, handle_message
from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.instantiate import instantiate
from fedhealth.config.override_allowlist import select_shared_overrides
from fedhealth.config.schema import Purpose
from fedhealth.consortium.identity import save_roster
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.flower.compat import set_task_identity
from fedhealth.models.modality_keys import METHOD
from fedhealth.protocol.array_codec import pack_arrays
from fedhealth.protocol.messages import DIRECTIVE, EVALUATE, GLOBAL, HANDSHAKE, SECAGG, TRAIN, Directive
from fedhealth.statistics.shapes import get_statistic_shapes
from strategies.aggregation.base import RoundAttempt
from strategies.aggregation.secure import SecureSum
from strategies.app import build_initial_state
from tests.conftest import tiny_model, write_site
from tests.fedhealth.site.trust import Consortium

FOUR = ("charite", "klinikum", "st-brigid", "ward")
VICTIM = FOUR[3]
OWN = ("data.site_column", "data.name", "data.sites", "data.root")
POLICY = """\
name: {name}
lead: lead.example:9092
data:
  tiny: {{dataset: tiny-2026, root: {root}, cache: {cache}}}
limits: {{min_patients: 3, unattended_studies: true{limits}}}
"""


@pytest.fixture(name="four_hospitals", scope="module")
def four_hospitals_(tmp_path_factory):
    """The data of the hospitals."""
    root = tmp_path_factory.mktemp("four")
    for seed, site in enumerate(FOUR):
        write_site(root, site, patients=16, seed=seed)
    return root


class Hospitals:
    """The members of a consortium; `send` is how the runner brings them a message."""

    def __init__(self, folder, data, limits=""):
        self.folder, self.data = folder, data
        self.consortium = Consortium(folder / "consortium", FOUR)
        self.homes = self.consortium.homes
        self.members = {m.site: m.identity for m in self.consortium.membership().members}
        for site, home in self.homes.items():
            home.kit.mkdir(exist_ok=True)
            home.membership.write_bytes(self.consortium.lead.membership.read_bytes())
            save_roster(home.state, self.members)
            self.set_limits(site, limits)

    def set_limits(self, site, limits):
        """Write a hospital's policy: the strict default and these limits."""
        root, cache = self.data / site, self.folder / "cache"
        content = POLICY.format(name=site, root=root, cache=cache, limits=limits and f", {limits}")
        self.homes[site].policy.write_text(content)

    def send(self, site, job, kind, records):
        """Send one message and return the reply."""
        set_task_identity(1, 1)
        context = Context(1, 1, {"home": str(self.homes[site].path)}, RecordDict(), {"job": job.dumps()})
        message = Message(RecordDict(records), 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        return handle_message(message, context)


class Lead:
    """A lead in one run. It opens what it can: `ask`, then `open`.

    Args:
        hospitals: the members.
        run: the run's id.
        overrides: of the job.

    """

    def __init__(self, hospitals, run, *overrides):
        shared = [*tiny_model(hospitals.data, FOUR), "training.local_steps=1", *overrides]
        chosen = [each for each in select_shared_overrides(shared) if each.partition("=")[0] not in OWN]
        chosen += ["data.name=tiny", f"data.sites=[{','.join(FOUR)}]"]
        self.config = compose_config([*chosen, f"data.root={hospitals.data}"])
        self.hospitals, self.run, self.digest = hospitals, run, compute_config_digest(self.config)
        now, none = int(time.time()), "0" * 64
        self.job = SignedJob("chest", run, tuple(chosen), self.digest, none, none, now, now + 3600, "0" * 32)
        folder = hospitals.folder / run
        save_roster(folder, hospitals.members)
        self.sum = SecureSum(sites=FOUR, epsilon=self.config.privacy.get("epsilon"))
        self.sum.start(run, self.digest, folder)
        self.exchange, self.refusals = 0, []
        self.initial = {} if self.config.purpose is Purpose.describe else build_initial_state(self.config)
        self.sum.begin_history(self.initial, "")
        shapes = {name: array.shape for name, array in self.initial.items()}
        extra = instantiate(self.config.personalization).get_extra_shapes(shapes)
        self.initial |= {METHOD + name: np.zeros(shape, np.float32) for name, shape in extra.items()}

    def change(self, site, secret):
        """Return what the lead shows a hospital; a test may lie here."""
        return secret

    def join(self):
        """Shake hands with all hospitals."""
        for site in FOUR:
            reply = self.hospitals.send(site, self.job, HANDSHAKE, {DIRECTIVE: self.direct(0, FOUR).record()})
            assert not reply.content["acceptance"]["reasons"], reply.content["acceptance"]
            self.sum.admit(site, reply.content)
        return self

    def direct(self, number, cohort, **about):
        self.exchange += 1
        about = {"repetition": self.exchange} | about
        return Directive(self.run, self.digest, number, self.exchange, 0, tuple(sorted(cohort)), **about)

    def ask(self, kind, cohort=FOUR, dropped=(), number=1, arrays=None, absent=(), **about):
        """Ask the cohort; the answers of the dropped ones, and the requests to the absent ones, are lost."""
        rounds = {TRAIN: number, EVALUATE: self.config.strategy.rounds}
        directive = self.direct(rounds.get(kind, 0), cohort, **about)
        arrays = {} if kind not in rounds else arrays or self.initial
        expected = arrays if kind == TRAIN else {}
        statistics = get_statistic_shapes(self.config)[kind]
        secret = self.sum.open(RoundAttempt(kind, directive, arrays, expected, statistics, {}))
        for site in [each for each in cohort if each not in absent]:
            records = RecordDict({DIRECTIVE: directive.record(), SECAGG: secret})
            records = dict(self.sum.complete_request(site, records))
            records[SECAGG] = self.change(site, records[SECAGG])
            reply = self.hospitals.send(
                site, self.job, kind, records | ({GLOBAL: pack_arrays(arrays)} if arrays else {})
            )
            if reply.has_error():
                self.refusals.append((kind, site, reply.error.reason))
            elif site not in dropped:
                self.sum.add(site, reply.content)
        self.directive = directive
        return directive

    def open(self, answering=FOUR):
        """Open the sum with the hospitals that answer, and return it."""

        def send_follow_up(kind, requests):
            asked, record = [site for site in requests if site in answering], self.directive.record()
            replies = {  # of all, also after enough have answered: the requests leave at once
                site: self.hospitals.send(site, self.job, kind, {DIRECTIVE: record, **requests[site]}) for site in asked
            }
            self.refusals += [(kind, site, reply.error.reason) for site, reply in replies.items() if reply.has_error()]
            yield from ((site, reply.content) for site, reply in replies.items() if not reply.has_error())

        return self.sum.close(send_follow_up)

    def advance(self, aggregate, arrays=None):
        """Add an opened sum to the history; return the next arrays."""
        if arrays is None:
            arrays = {name: array + aggregate.update.get(name, 0) for name, array in self.initial.items()}
        self.sum.advance_history(aggregate, arrays)
        return arrays

    def restart_hospitals(self):
        """Forget all that is not on the hospitals' disks."""
        get_job_cache.cache_clear()
