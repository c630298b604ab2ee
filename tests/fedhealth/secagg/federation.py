"""A small federation in one process, for the tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.primitives.layout import WEIGHT_ONE, Segment, VectorSpec
from fedhealth.secagg.primitives.packing import PackedWords
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.messages import AttemptDescriptor
from fedhealth.secagg.protocol.statement import StateHeads, StateStatement, digest_statement
from fedhealth.secagg.protocol.store import MemoryStore
from fedhealth.secagg.protocol.threshold import ThresholdPolicy
from fedhealth.secagg.protocol.vector_name import VectorName
from fedhealth.secagg.server.server_protocol import AttemptPlan, ServerParameters
from fedhealth.secagg.server.session import ServerSession
from fedhealth.secagg.server.shown_statements import ShownStatements

CONFIG, TRAINING = hashlib.sha256(b"config").digest(), hashlib.sha256(b"training").digest()
RUN = "run-1"


def model_digest(exchange: int) -> bytes:
    return hashlib.sha256(exchange.to_bytes(8, "big")).digest()


def name(i: int) -> str:
    return f"site-{i:02d}"


@dataclass
class MemoryHistory:
    """A site's chains: one ledger, to which `book` appends."""

    lines: list[bytes] = field(default_factory=lambda: [bytes(32)])
    statements: list[bytes] = field(default_factory=list)

    def book(self, what: bytes) -> None:
        self.lines.append(hashlib.sha256(self.lines[-1] + what).digest())

    def read_heads(self) -> StateHeads:
        return StateHeads((self.lines[-1],))

    def holds_statement(self, name: str) -> bool:
        return name in (digest_statement(each).hex() for each in self.statements)

    def load_last_statement(self) -> bytes:
        return b""

    def holds_heads(self, heads: StateHeads) -> bool:
        return set(heads.ledgers) <= set(self.lines)

    def find_last_counter(self) -> int:
        return 0

    def build_record(self) -> bytes:
        return b"%d" % len(self.lines)

    def log_statement(self, statement: StateStatement) -> None:
        self.statements.append(statement.to_bytes())


@dataclass
class Federation:
    """n sites with real sessions, and a lead."""

    n: int
    towers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    policy: ThresholdPolicy = field(default_factory=ThresholdPolicy)
    bits: int = 32
    length: int = 5

    def __post_init__(self):
        self.identities = {name(i): Ed25519PrivateKey.generate() for i in range(self.n)}
        self.roster = Roster.from_keys({s: k.public_key().public_bytes_raw() for s, k in self.identities.items()})
        self.towers = self.towers or {s: {"shared": WEIGHT_ONE} for s in self.identities}
        self.journals = {s: MemoryStore() for s in self.identities}
        self.secrets = {s: MemoryStore() for s in self.identities}
        self.books = {s: MemoryStore() for s in self.identities}
        self.histories = {s: MemoryHistory() for s in self.identities}
        self.sites = {s: self.session(s) for s in self.identities}
        self.store = MemoryStore()
        self.lead = ServerParameters(RUN, self.roster, CONFIG, self.policy)
        self.server = ServerSession(self.lead, self.store)
        self.shown = ShownStatements(self.store, self.roster)
        self.announce()

    @property
    def ids(self) -> list[str]:
        return sorted(self.identities)

    def session(self, site: str, run: str = RUN) -> SiteSession:
        me = SiteCredentials(run, site, self.identities[site], self.roster, CONFIG, self.policy)
        return SiteSession(me, self.journals[site], self.secrets[site], self.book(site), clock=lambda: 1000)

    def book(self, site: str) -> StatementBook:
        return StatementBook(self.books[site], site, self.identities[site], self.roster, self.histories[site])

    def restart(self, site: str) -> SiteSession:
        self.sites[site] = self.session(site)
        return self.sites[site]

    def announce(self, sites: Sequence[str] | None = None) -> None:
        for site in sites or self.ids:
            self.server.register(self.announce_site(site), site)

    def announce_site(self, site: str) -> bytes:
        """Return a new announcement of a site; the lead keeps the statements that it names."""
        announcement = self.sites[site].announce(self.towers[site])
        self.shown.keep_shown(announcement, self.book(site).list_known_statements(), site)
        return announcement

    def restart_server(self) -> ServerSession:
        self.server = ServerSession(self.lead, self.store)
        return self.server

    def segment(self, tower: str = "shared", kind: str = "model", bits: int | None = None) -> Segment:
        weight = sum(towers.get(tower, 0) for towers in self.towers.values())
        if kind == "statistics":
            entries = (VectorSpec("count", 3, 1e9, 1), VectorSpec("loss", 2, 1e6, 2.0**-20))
            return Segment(f"{tower}-statistics", tower, "statistics", 64, entries, self.n)
        entries = (VectorSpec("layer.weight", self.length, 1.0), VectorSpec("layer.bias", 2, 2.0))
        return Segment(f"{tower}-model", tower, "model", bits or self.bits, entries, self.n, max(weight, 1))

    def plan(self, exchange: int = 1, attempt: int = 1, **changes) -> AttemptPlan:
        values = {
            "vector": VectorName("train", exchange, exchange),
            "history": bytes(32),
            "base": self.ids,
            "cohort": changes.get("base", self.ids),
            "layout": (self.segment(), self.segment(kind="statistics")),
            "model_digest": model_digest(exchange),
            "training_digest": TRAINING,
        }
        return AttemptPlan(exchange=exchange, attempt=attempt, **(values | changes))

    def vectors(self, site: str, layout: Sequence[Segment]) -> dict[str, dict[str, np.ndarray]]:
        return {segment.name: self.values(site, segment) for segment in layout}

    def values(self, site: str, segment: Segment) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.ids.index(site), *segment.name.encode()])
        if segment.kind == "model":
            return {e.name: rng.uniform(-e.bound, e.bound, e.length) for e in segment.entries}
        return {"count": rng.integers(-1000, 1000, 3), "loss": rng.integers(-(2**30), 2**30, 2) * 2.0**-20}

    def accept(self, site: str, descriptor: bytes, plan: AttemptPlan, certificates: Sequence[bytes] = ()):
        return self.sites[site].accept(
            descriptor,
            plan.model_digest,
            plan.training_digest,
            lambda members: tuple(plan.layout),
            certificates,
            self.list_shown(site, descriptor),
            self.server.get_envelopes(site),
        )

    def list_shown(self, site: str, descriptor: bytes) -> tuple[bytes, ...]:
        """Return the site's own statements that the members of an attempt name."""
        return self.shown.list_shown(
            site, AttemptContext.from_descriptor(AttemptDescriptor.from_bytes(descriptor)).members
        )

    def protect(self, site: str, descriptor: bytes, plan: AttemptPlan) -> tuple[bytes, dict[str, PackedWords]]:
        """Accept, quantize and mask; returns what `fold` takes."""
        context = self.accept(site, descriptor, plan)
        session = self.sites[site]
        return session.mask_upload(context, session.quantize(context, self.vectors(site, context.layout)))

    def collect(self, plan: AttemptPlan, uploaders: Sequence[str]) -> bytes:
        """Open an attempt and fold the uploads of some sites."""
        descriptor = self.server.open_attempt(plan)
        for site in uploaders:
            self.server.add_upload(*self.protect(site, descriptor, plan), site)
        return descriptor

    def unmask(self, answering: Sequence[str]) -> None:
        """Run [SIGN] and UNMASK with the sites that still answer."""
        request = self.server.sign_request()
        if request is not None:
            for site in answering:
                self.server.add_signature(self.sites[site].sign_survivors(request), site)
        requests = self.server.unmask_requests()
        for site in answering:
            self.server.add_unmask_reply(self.sites[site].reply_unmask(requests[site]), site)

    def round(self, plan: AttemptPlan, uploaders: Sequence[str], answering: Sequence[str]):
        self.collect(plan, uploaders)
        self.server.fix_survivors()
        self.unmask(answering)
        return self.server.open_sums()

    def expected(self, segment: Segment, sites: Sequence[str]) -> dict[str, np.ndarray]:
        """What the sum must be: the weighted mean of a model, the sum of a statistic."""
        owners = [s for s in sites if segment.tower in self.towers[s]]
        weights = {s: self.towers[s][segment.tower] if segment.kind == "model" else 1 for s in owners}
        total = sum(weights.values()) if segment.kind == "model" else 1
        values = {s: self.values(s, segment) for s in owners}
        return {
            e.name: np.asarray(sum(weights[s] * values[s][e.name] for s in owners) / total) for e in segment.entries
        }
