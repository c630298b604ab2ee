"""A stock Flower ClientApp that takes part in secure aggregation: its arrays and metrics leave masked only.

The lead's half is `strategies.SecureFedAvg`. What the app returns in addition to the agreed metrics is dropped. This is
for consortia with an app of their own: policy, approval, ledger and egress gate belong to the hospitals' client
(`clients.app`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.context import RunContext, SiteContext
from clients.message import ParsedMessage
from clients.release import Release, ReleaseRecorder
from clients.request_check import refuse_mismatches
from clients.transport.base import ReplyShapes, UploadAttempt
from clients.transport.secure import SecureTransport
from fedhealth.errors import FederationError, ModelError
from fedhealth.models.modality_keys import SHARED
from fedhealth.privacy.context import AccountingContext
from fedhealth.protocol.array_codec import get_arrays, to_array_record, unpack_arrays
from fedhealth.protocol.messages import (
    ABANDON,
    ACCEPTANCE,
    EVALUATE,
    HANDSHAKE,
    LOSS_UNIT,
    PURPOSES,
    SAME_RELEASE,
    SIGN,
    TRAIN,
    UNMASK,
    Acceptance,
    Directive,
    build_error_reply,
    digest_arrays,
    get_config_record,
    get_versions,
)
from fedhealth.protocol.secure_terms import EXAMPLES, SecureTerms
from fedhealth.training.trainer import PlainTrainer
from fedhealth.types import State

log = logging.getLogger("fedhealth.site")

ARRAYS, CONFIG, WEIGHT = "arrays", "config", "num-examples"  # names of stock Flower apps
_STOCK_TYPES = {TRAIN: "train", EVALUATE: "evaluate"}


@dataclass(frozen=True)
class SecureSite:
    """One site of a run.

    Attributes:
        name: one of the names in the terms.
        folder: the site's own, with its identity key and the list of members (see `make_identity`, `save_roster`).
        terms: of the run, from the site's own code.
        initial: the arrays before the first round, float32, as this site builds them itself.
        examples: number of training examples, the weight of its update; the lead learns it to a factor of sqrt 2.

    """

    name: str
    folder: Path
    terms: SecureTerms
    initial: State
    examples: int


def make_secure_client(app: ClientApp, describe_site: Callable[[Context], SecureSite]) -> ClientApp:
    """Return a ClientApp that runs a stock app and masks what it replies.

    Args:
        app: with `@app.train()` and `@app.evaluate()` as in Flower's tutorials.
        describe_site: returns the site of a context; called for every message.

    """
    secure = ClientApp()
    for kind in (HANDSHAKE, TRAIN, EVALUATE, SIGN, UNMASK, ABANDON):
        category, action = kind.split(".")
        getattr(secure, category)(action)(partial(_reply_safely, app, describe_site))
    return secure


def _reply_safely(
    app: ClientApp, describe_site: Callable[[Context], SecureSite], message: Message, context: Context
) -> Message:
    """Reply to one message; of a failure the lead learns the kind, never the text."""
    try:
        client = _SecureClient(partial(_call_app, app, message, context), describe_site(context))
        return Message(client.reply(message), reply_to=message)
    except Exception as fault:
        log.exception("%s failed", message.metadata.message_type)
        return build_error_reply(fault, message)


def _call_app(app: ClientApp, message: Message, context: Context, message_type: str, content: RecordDict) -> RecordDict:
    """Return a stock app's reply to a message of another type and content; only Flower itself can make a new one."""
    before = message.metadata.message_type, message.content
    message.metadata.message_type, message.content = message_type, content
    try:
        return app(message, context).content
    finally:
        message.metadata.message_type, message.content = before


class _SecureClient:
    """One site, for one message."""

    def __init__(self, call_app: Callable[[str, RecordDict], RecordDict], site: SecureSite) -> None:
        terms = site.terms
        self._call_app, self._site = call_app, site
        self._transport = SecureTransport(bits=terms.bits, clipping_range=terms.clipping_range, sites=terms.sites)
        own = SiteContext.virtual(site.name, site.folder)
        self._run = RunContext(terms.run, terms.digest, own, data=str(site.folder.resolve()))

    def reply(self, message: Message) -> RecordDict:
        """Return the reply to one message of the protocol."""
        with refuse_mismatches():
            asked = ParsedMessage.parse(message)
            self._check_directive(asked.directive, asked.kind)
        if asked.kind == HANDSHAKE:
            return self._accept_run()
        if asked.kind not in _STOCK_TYPES:
            with refuse_mismatches():
                return self._transport.handle_message(self._run, asked)
        with refuse_mismatches():
            attempt = self._accept_attempt(asked)
        return attempt.load_cached_reply() or self._run_app(asked, attempt)

    def _check_directive(self, directive: Directive, kind: str) -> None:
        """Refuse a request of another run, of other terms, or for a cohort that is not this run's."""
        terms, cohort = self._site.terms, directive.cohort
        is_own = (directive.run, directive.digest) == (terms.run, terms.digest)
        is_member = set(cohort) <= set(terms.sites) and (kind == HANDSHAKE or self._site.name in cohort)
        if not (is_own and is_member):
            raise FederationError("The lead and this site have different terms.", SAME_RELEASE)

    def _accept_run(self) -> RecordDict:
        weights, reply = self._transport.announce(self._run, {SHARED: self._site.examples})
        last = self._transport.get_last_exchange(self._run)
        reply[ACCEPTANCE] = Acceptance(self._site.name, (), weights, get_versions(), last).record()
        return reply

    def _accept_attempt(self, asked: ParsedMessage) -> UploadAttempt:
        """Accept an attempt before the app is run for it."""
        initial, directive = self._site.initial, asked.directive
        update = {name: array.shape for name, array in initial.items()} if asked.kind == TRAIN else {}
        shapes = ReplyShapes(update, self._site.terms.statistics[asked.kind])
        purpose = PURPOSES[asked.kind]
        accounting = AccountingContext(directive.run, self._site.name, self._site.folder, directive.round, 0, purpose)
        recorder = ReleaseRecorder(PlainTrainer(), accounting)
        digest = partial(digest_arrays, initial)
        return self._transport.accept_attempt(self._run, asked, asked.arrays, recorder, shapes, digest)

    def _run_app(self, asked: ParsedMessage, attempt: UploadAttempt) -> RecordDict:
        """Run the stock app and mask what was agreed of its reply."""
        config = get_config_record(asked.content, CONFIG) if CONFIG in asked.content else {}
        content = RecordDict({ARRAYS: to_array_record(asked.arrays)})
        content[CONFIG] = ConfigRecord({**config, "server-round": asked.directive.round})
        found = self._call_app(_STOCK_TYPES[asked.kind], content)
        update = _subtract_arrays(unpack_arrays(get_arrays(found, ARRAYS)), asked.arrays) if asked.kind == TRAIN else {}
        names = self._site.terms.statistics[asked.kind]
        return attempt.build_reply(update, _scale_metrics(found, names), Release())


def _subtract_arrays(after: State, before: State) -> State:
    """Return the update, float32.

    Raises:
        ModelError: the app returned other arrays than it got.

    """
    if {name: array.shape for name, array in after.items()} != {name: array.shape for name, array in before.items()}:
        raise ModelError("The app returned other arrays than it was sent.", "Return those of the same model.")
    return {name: (array - before[name]).astype(np.float32) for name, array in after.items()}


def _scale_metrics(reply: RecordDict, names: Mapping[str, object]) -> dict[str, np.ndarray]:
    """Return the number of examples, and examples x metric in fixed point, int64 [1] each.

    Raises:
        ModelError: an agreed metric is missing or not finite.

    """
    metrics = {name: value for record in reply.metric_records.values() for name, value in record.items()}
    examples = metrics.get(WEIGHT)
    scaled: dict[str, np.ndarray] = {}
    for name in names:
        metric = name.partition(".")[2]
        value = 1.0 if metric == EXAMPLES else metrics.get(metric)
        if not isinstance(examples, int) or not isinstance(value, int | float) or not np.isfinite(value):
            problem = f"The app's metrics have no whole number {WEIGHT!r}, or no finite {metric!r}."
            raise ModelError(problem, "Return both, or leave the metric out of the terms.")
        scaled[name] = np.array([examples if metric == EXAMPLES else round(value * examples * LOSS_UNIT)], np.int64)
    return scaled
