"""A lead that lies to one hospital: home, keys, policy, order, screen and gate are real, only the lead is the test's.

The messages are built by hand, field by field, as a lead with the consortium's key could build them.
"""

from contextlib import suppress
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, RecordDict
from omegaconf import OmegaConf

from clients.app import handle_message
from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.schema import Purpose
from fedhealth.consortium.identity import save_roster
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import ConfigError
from fedhealth.flower.compat import set_task_identity
from fedhealth.models.modality_keys import SHARED
from fedhealth.models.sum_layout import SumSettings
from fedhealth.protocol.array_codec import pack_arrays
from fedhealth.protocol.messages import (
    DESCRIBE,
    DIRECTIVE,
    EVALUATE,
    GLOBAL,
    HANDSHAKE,
    PURPOSES,
    SECAGG,
    TRAIN,
    Acceptance,
    Directive,
    digest_arrays,
    digest_task,
)
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.protocol.context import digest_attempt
from fedhealth.secagg.protocol.history import HistoryLink, build_opening_label, compute_history_start, digest_shares
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement
from fedhealth.secagg.protocol.statement import StateHeads, StateStatement
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, compute_thresholds
from fedhealth.secagg.protocol.vector_name import VectorName
from fedhealth.statistics.shapes import compute_shared_sensitivity, get_statistic_shapes
from strategies.app import build_initial_state
from tests.clients.studies import approve, make_study, send_study
from tests.fedhealth.site.trust import Consortium

VICTIM = "charite"
RUN = "run12345"
ISSUED = 1_790_000_000
MODEL = (
    *("model.image=null", "model.text=null", "model.dim=8"),
    *(f"~data.tabular.{name}" for name in ("age", "sex", "lymphocytes", "spo2")),
    *("training.batch_size=8", "training.local_steps=1", "strategy.rounds=2", "evaluation.bins=64"),
)
PRIVATE = ("privacy=patient", "privacy.epsilon=8")
DESCRIPTION = ("purpose=describe", "privacy=patient", "privacy.epsilon=2")
KINDS = {TRAIN: PRIVATE, EVALUATE: PRIVATE, DESCRIBE: DESCRIPTION}
POLICY = """\
name: charite
lead: lead.example:9092
data:
  tiny: {{dataset: tiny-2026, root: {root}, manifest: manifest.csv, cache: {cache}}}
limits: {{min_patients: 2, unattended_studies: {unattended}, {limits}}}
"""
DECLINED = (1018, "RequestMismatchError")


def name_members(count):
    """Return the names of a consortium; the victim is the first."""
    return (VICTIM, *(f"member-{number:02d}" for number in range(1, count)))


class LyingLead:
    """A lead, the hospital that it lies to, and the keys of all other members.

    Args:
        root: folder of the consortium.
        data: of the hospitals.
        members: of the consortium.
        run: those of them that are in the run.
        words: of the job, beside those of the tiny model.
        limits: of the victim's policy, as YAML.
        hours: for which the job is valid.
        study: fields of a study of these words that the hospital approves; None for a hospital that needs none.

    """

    def __init__(self, root, data, members=4, run=None, words=PRIVATE, limits="", hours=72, model=MODEL, study=None):
        self.sites = name_members(members)
        self.consortium = Consortium(root / "consortium", self.sites)
        self.home = self.consortium.homes[VICTIM]
        self.home.kit.mkdir(exist_ok=True)
        self.home.membership.write_bytes(self.consortium.lead.membership.read_bytes())
        self.roster = self.consortium.membership().roster
        save_roster(self.home.state, dict(self.roster.members))
        self._root, self.data, self._needs_study, self.study = root, data, study is not None, ""
        self.set_limits(limits)
        self.cohort = self.sites[: run or members]
        own = ("data.name=tiny", f"data.sites=[{','.join(self.cohort)}]", "secagg=on")
        self.words = (*model, *own, *words)
        if study is not None:
            self.study = self.publish(**study).digest
            approve(self.home, self.home.studies / f"{self.study}.study.json")
        composed = compose_config([*self.words, f"data.root={data}"])
        self.config, self.digest = OmegaConf.to_object(composed), compute_config_digest(composed)
        secagg, privacy = self.config.secagg, self.config.privacy
        noise = (privacy.get("noise", "local"), secagg["noise_bits"], privacy.get("max_grad_norm", 0.0))
        self.settings = SumSettings(secagg["bits"], secagg["clipping_range"], secagg["clamp_share"], *noise)
        self.hours = hours
        self.state = build_initial_state(self.config)
        self.announced, self.links = (), []
        initial = {} if self.config.purpose is Purpose.describe else self.state
        self.history = compute_history_start(RUN, bytes.fromhex(self.digest), self.roster, digest_arrays(initial))
        self.towers = {site: {SHARED: WEIGHT_ONE, "tabular": WEIGHT_ONE} for site in self.sites[1:]}

    def set_limits(self, limits):
        self.home.policy.write_text(
            POLICY.format(
                root=self.data / "north",
                cache=self._root / "cache",
                limits=limits,
                unattended="false" if self._needs_study else "true",
            ),
            "utf-8",
        )

    def publish(self, **fields):
        """Sign a study of the job's words and let the hospital receive it, as with an order."""
        return send_study(self.consortium, self.home, make_study(self.words, **fields))

    def order(self, *overrides, study=None):
        """Order other words from now on; overrides replace those of the same key."""
        keys = {override.partition("=")[0] for override in overrides}
        self.words = (*(word for word in self.words if word.partition("=")[0] not in keys), *overrides)
        self.study = self.study if study is None else study
        with suppress(ConfigError):  # the lead may claim any digest
            self.digest = compute_config_digest(compose_config([*self.words, f"data.root={self.data}"]))

    def sign(self):
        """Return the job as it is signed."""
        expires = ISSUED + int(self.hours * 3600)
        digests, times = (self.digest, self.roster.digest.hex(), "0" * 64), (ISSUED, expires, "0" * 32)
        return SignedJob("chest", RUN, self.words, *digests, *times, study=self.study)

    def send(self, kind, directive, content=None):
        """Send one message as the site's daemon passes it on, and return the reply."""
        set_task_identity(1, 1)
        context = Context(1, 1, {"home": str(self.home.path)}, RecordDict(), {"job": self.sign().dumps()})
        record = directive if isinstance(directive, ConfigRecord) else directive.record()
        message = Message(RecordDict({DIRECTIVE: record, **(content or {})}), 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        return handle_message(message, context)

    def handshake(self):
        """Run the handshake and announce the other members' keys; return the victim's reasons to decline."""
        reply = self.send(HANDSHAKE, Directive(RUN, self.digest, 0, 0, 0, ()))
        accepted = Acceptance.parse(reply.content)
        if not accepted.reasons:
            own = bytes(reply.content[SECAGG]["announcement"])
            self.announced = (own, *(self.announce(site, towers) for site, towers in self.towers.items()))
        return accepted.reasons

    def renew_keys(self):
        """Let the victim announce a new key: it may then be asked for another vector, without envelopes of the last."""
        reply = self.send(HANDSHAKE, Directive(RUN, self.digest, 0, 0, 0, ()))
        self.announced = (bytes(reply.content[SECAGG]["announcement"]), *self.announced[1:])

    def announce(self, site, towers, run=RUN, noise=0.0, statistics_noise=0.0):
        """Return a member's announcement, signed with its identity key."""
        key = X25519PrivateKey.generate().public_key().public_bytes_raw()
        identity = self.consortium.homes[site].load_identity_key()
        statement = StateStatement(site, 1, run, 0, StateHeads(), b"").sign(identity).to_bytes()
        listed = tuple(sorted(towers.items()))
        least = {"noise": noise, "statistics_noise": statistics_noise}
        draft = KeyAnnouncement(run, self.roster.digest, site, 1, key, listed, statement, (), **least)
        return replace(draft, signature=keys.sign_parts(identity, b"announce", draft.body())).to_bytes()

    def directive(self, kind, number=None, exchange=1, attempt=0, cohort=None, repetition=None):
        """Return what an honest lead asks for; without a repetition, a new vector."""
        rounds = {TRAIN: 1, EVALUATE: self.config.strategy.rounds}
        number = rounds.get(kind, 0) if number is None else number
        repetition = exchange if repetition is None else repetition
        return Directive(RUN, self.digest, number, exchange, attempt, cohort or self.cohort, repetition=repetition)

    def describe_attempt(self, kind, directive, arrays, threshold, signed=False):
        """Return what an honest lead's secure aggregation says about it."""
        announced = {KeyAnnouncement.from_bytes(blob, ""): blob for blob in self.announced}
        members = [member for member in announced if member.site in self.cohort]
        statistics = get_statistic_shapes(self.config)[kind]
        shapes = {name: array.shape for name, array in arrays.items()} if kind == TRAIN else {}
        thresholds = None
        if self.settings.shares_noise:
            policy = ThresholdPolicy(self.config.secagg["colluders"], self.config.secagg["min_honest"])
            thresholds = compute_thresholds(len(self.cohort), policy, len(self.sites))
        sensitivity = compute_shared_sensitivity(self.config, kind)
        plan = self.settings.plan_layout(shapes, statistics, thresholds, sensitivity)
        return AttemptDescriptor(
            run=RUN,
            config_digest=bytes.fromhex(self.digest),
            roster_digest=self.roster.digest,
            exchange=directive.exchange,
            attempt=directive.attempt + 1,
            vector=VectorName(PURPOSES[kind], max(directive.round, 0), directive.repetition),  # no sign on the wire
            history=self.history,
            threshold=threshold,
            signed=signed,
            members=tuple(announced[member] for member in members),
            base=directive.cohort,
            cohort=directive.cohort,
            model_digest=digest_arrays(arrays),
            training_digest=digest_task(kind, directive),
            layout=plan.build(members, threshold),
        )

    def ask(self, kind, directive=None, descriptor=None, arrays=None, threshold=3, signed=False, **lies):
        """Send a request with these parts; `lies` replace fields of the descriptor."""
        directive = directive or self.directive(kind)
        arrays = (self.state if kind in (TRAIN, EVALUATE) else {}) if arrays is None else arrays
        descriptor = descriptor or self.describe_attempt(kind, directive, arrays, threshold, signed)
        content = {SECAGG: ConfigRecord({"train": replace(descriptor, **lies).to_bytes(), "links": self.links})}
        if kind in (TRAIN, EVALUATE):
            content[GLOBAL] = pack_arrays(arrays)
        return self.send(kind, directive, content)

    def open_without_victim(self, arrays):
        """Add an opened sum to the history, signed by all members but the victim, which leads to these arrays."""
        opened = self.describe_attempt(TRAIN, self.directive(TRAIN), self.state, threshold=len(self.cohort) - 1)
        others, segments = self.cohort[1:], tuple(segment.name for segment in opened.layout)
        label = build_opening_label(digest_attempt(opened), others, segments, digest_shares(b""))
        signed = [
            (site, digest_shares(b""), keys.sign_parts(self.consortium.homes[site].load_identity_key(), *label))
            for site in others
        ]
        link = HistoryLink(opened, others, segments, bytes(32), digest_arrays(arrays), tuple(signed))
        self.history, self.links = link.head, [link.to_bytes()]

    def books(self):
        """Return everything that the victim has written about privacy and exchanges."""
        folders = (self.home.state / "privacy", self.home.state / "secagg")
        files = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path): path.read_bytes() for path in files if path.name != ".lock"}


def read_error(reply):
    """Return the code and reason of a reply; None if it is an answer."""
    return (reply.error.code, reply.error.reason) if reply.has_error() else None


def assert_refused(lead, reply, before):
    """Check that a reply is the one refusal, and that the hospital wrote nothing."""
    assert read_error(reply) == DECLINED
    assert lead.books() == before
