"""Secure aggregation at the lead, which learns sums only; this class drives the protocol of `fedhealth.secagg`.

See docs/secure-aggregation.md. The lead never sees a single site's update, counts or metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flwr.app import ConfigRecord, RecordDict

from fedhealth.consortium.identity import load_roster
from fedhealth.errors import SecureAggregationError
from fedhealth.models.sum_layout import SumSettings
from fedhealth.protocol.array_codec import get_arrays, unpack_arrays
from fedhealth.protocol.messages import (
    ABANDON,
    PURPOSES,
    SEALED,
    SECAGG,
    SIGN,
    TRAIN,
    UNMASK,
    digest_arrays,
    digest_task,
    get_config_record,
)
from fedhealth.secagg.primitives.layout import Layout, Segment
from fedhealth.secagg.protocol.history import HistoryLink
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, compute_thresholds
from fedhealth.secagg.protocol.vector_name import VectorName
from fedhealth.secagg.server.server_protocol import AttemptPlan, ServerParameters
from fedhealth.secagg.server.session import ServerSession
from fedhealth.secagg.server.shown_statements import ShownStatements
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, AttemptFailedError, RoundAttempt, SendFollowUp
from strategies.aggregation.fixed_contributors import FixedContributors
from strategies.aggregation.opened_sums import read_blanks, read_statistics, read_update
from strategies.aggregation.run_history import RunHistory
from strategies.aggregation.secagg_requests import (
    build_secagg_record,
    read_secagg_bytes,
    read_secagg_list,
    request_until_enough,
)
from strategies.aggregation.sum_store import SumStore

_RECENT_LINKS = 3  # of the history: all links go to sites that have just joined


class SecureSum:
    """Secure aggregation of updates (weighted mean by tower) and statistics (exact sums).

    Args:
        bits: transmitted for each value of the model, 16 to 32.
        clipping_range: largest magnitude of one value in a site's update.
        clamp_share: share of a layer's values that may exceed it and are clamped; 0 refuses instead.
        colluders: number of sites assumed to collude with the lead; null uses (n - 1) // 3.
        min_honest: smallest number of honest contributions in a sum; null uses 3 (2 for up to five sites).
        min_sites: smallest number of sites in a sum that is unmasked.
        noise: `shared` if the sites share the noise of the sums.
        noise_bits: transmitted for each value of the model if they do.
        max_grad_norm: the clipping bound of one patient.
        sample_rate: probability with which a patient is in a step's batch; for the mean of shared sums.
        min_answers: `all` opens a sum only if every site of its cohort answers, `threshold` as soon as it may; null
            takes `all` for a model's sum whose noise is shared, since each share is then the smallest.
        epsilon: of the run; null without differential privacy, when the sites' updates follow from their data alone.
        sites: members of the run.

    Arrays of the model are float32 by name, statistics int64 by name.

    Raises:
        SecureAggregationError: from all steps, for a message that breaks the protocol.
        AttemptFailedError: from `close`, if nothing was opened and the round may be tried again.

    """

    sees_single_updates = False

    def __init__(
        self,
        bits: int = 32,
        clipping_range: float = 8.0,
        clamp_share: float = 0.0,
        colluders: int | None = None,
        min_honest: int | None = None,
        min_sites: int = 3,
        noise: Literal["local", "shared"] | None = None,
        noise_bits: int = 24,
        max_grad_norm: float = 0.0,
        sample_rate: float | None = None,
        min_answers: Literal["all", "threshold"] | None = None,
        epsilon: float | None = None,
        *,
        sites: Sequence[str],
    ) -> None:
        self.settings = SumSettings(bits, clipping_range, clamp_share, noise, noise_bits, max_grad_norm)
        self.sample_rate = sample_rate
        self.min_answers = min_answers
        self.policy = ThresholdPolicy(colluders, min_honest, min_sites)
        self.sites, self.is_private = tuple(sites), epsilon is not None
        self.required_sites = min_sites  # until `start` knows the threshold

    @staticmethod
    def has_too_few_sites(settings: Mapping[str, Any]) -> bool:
        """Return whether `start` refuses the class's parameters, however many members the consortium has."""
        policy = ThresholdPolicy(settings["colluders"], settings["min_honest"], settings["min_sites"])
        try:
            compute_thresholds(len(settings["sites"]), policy)
        except SecureAggregationError:
            return True
        return False

    def start(self, run: str, digest: str, folder: Path) -> None:
        """Begin or resume a run."""
        lead = ServerParameters(run, load_roster(folder), bytes.fromhex(digest), self.policy, self.sites)
        self.required_sites = lead.thresholds.threshold  # refuses a run of too few sites before anything is sent
        self._store = FileStore(folder / "secagg")
        self._session, self._shown = ServerSession(lead, self._store), ShownStatements(self._store, lead.roster)
        self._history, self._fresh_sites = RunHistory(self._store, lead, digest_arrays({})), True
        self._sums = SumStore(folder / "sums")
        self._contributors = FixedContributors(self._store, is_private=self.is_private)

    def admit(self, site: str, content: RecordDict) -> None:
        """Register a site's announcement, which must be signed by the identity of that name."""
        self._fresh_sites = True
        announcement = read_secagg_bytes(content, "announcement", site)
        self._shown.keep_shown(announcement, read_secagg_list(content, "shown"), site)
        found = self._session.register(announcement, site)
        if found.site != site:
            raise SecureAggregationError(f"{site} announced itself as {found.site}.", "Check the site's identity.")

    @property
    def last_exchange(self) -> int:
        """The latest exchange this lead opened, also before a restart."""
        return self._session.last_attempt[0]

    def begin_history(self, initial: State, head: str) -> None:
        """Begin the history, or go back to that of a checkpoint."""
        self._history = RunHistory(self._store, self._session.lead, digest_arrays(initial))
        self._history.go_back(bytes.fromhex(head))

    def advance_history(self, aggregate: Aggregate, arrays: State) -> str:
        """Store the link of an opened sum and of the arrays that follow; return the new head."""
        self._history.append(HistoryLink.from_bytes(aggregate.link), digest_arrays(arrays))
        return self._history.head.hex()

    def look_back(self, head: str) -> None:
        """Show the sites an earlier history: its arrays are the model of an earlier round."""
        self._history.look_back(bytes.fromhex(head))

    def load_opened(self, kind: str, number: int, incoming: State) -> Aggregate | None:
        """Return the stored sum of this request: the first way to resume, which asks no site."""
        found = self._sums.load(kind, number, digest_arrays(incoming))
        is_next = found and HistoryLink.from_bytes(found.link).descriptor.history == self._history.head
        return found if is_next else None

    def find_repetition(self, kind: str, number: int, incoming: State) -> int:
        """Return the repetition under which the sites mask the same words again; 0 for a new draw."""
        return self._session.find_repetition(PURPOSES[kind], number, digest_arrays(incoming))

    def choose_sites(self, kind: str, sites: Sequence[str]) -> tuple[str, ...]:
        """Return which of these sites to ask: those of the first sum, if others were refused."""
        return self._contributors.choose_sites(kind, sites)

    def give_up(self) -> None:
        """Ask for a new vector next time: the last way to resume."""
        self._session.close_vector()

    def resume(self, attempt: RoundAttempt, saved_exchange: int) -> int | None:
        """Resume an interrupted unmasking of the same request: with the same survivors and the same replies."""
        if not self._session.has_requested_unmask or self._session.context.descriptor.exchange <= saved_exchange:
            return None
        context = self._session.context
        planned = {segment.name: _list_entries(segment) for segment in self._build_layout(attempt)}
        # towers of too few owners were left out of the sum
        same = all(planned.get(segment.name) == _list_entries(segment) for segment in context.layout)
        same &= context.descriptor.history == self._history.head
        if not same or context.descriptor.model_digest != digest_arrays(attempt.incoming):
            return None
        self._begin(attempt, resumed=True)
        return context.descriptor.exchange

    def open(self, attempt: RoundAttempt) -> ConfigRecord:
        """Return the attempt's secure-aggregation message: its members, layout and context."""
        directive = attempt.directive
        self._begin(attempt, resumed=False)
        plan = AttemptPlan(
            exchange=directive.exchange,
            attempt=directive.attempt + 1,
            vector=VectorName(PURPOSES[attempt.kind], directive.round, directive.repetition),
            history=self._history.head,
            base=directive.cohort,
            cohort=directive.cohort,
            layout=self._build_layout(attempt),
            model_digest=digest_arrays(attempt.incoming),
            training_digest=digest_task(attempt.kind, directive),
            threshold=self._choose_threshold(attempt),
        )
        train = self._session.open_attempt(plan)
        links = self._history.list_links(None if self._fresh_sites else _RECENT_LINKS)
        return ConfigRecord({"train": train, "abandoned": list(self._session.certificates), "links": links})

    def complete_request(self, site: str, request: RecordDict) -> RecordDict:
        """Add the site's own statements that the members name, and what was sealed to it if it may not know it yet."""
        own: dict[str, Any] = {"shown": list(self._shown.list_shown(site, self._session.context.members))}
        if envelopes := self._session.get_envelopes(site):
            own["envelopes"] = envelopes
        return RecordDict({**request, SECAGG: ConfigRecord({**get_config_record(request, SECAGG), **own})})

    def _begin(self, attempt: RoundAttempt, resumed: bool) -> None:
        self._round, self._resumed = attempt, resumed

    def add(self, site: str, content: RecordDict) -> None:
        """Add a masked update to the sum."""
        head = read_secagg_bytes(content, "head", site)
        self._session.add_upload(head, unpack_arrays(get_arrays(content, SEALED)), site)

    def close(self, send_follow_up: SendFollowUp) -> Aggregate:
        """Fix the list of survivors, request the unmasking of their sum, and decode it."""
        try:
            survivors = self._session.survivors if self._resumed else self._session.fix_survivors()
        except SecureAggregationError as fault:
            raise AttemptFailedError(fault.problem, fault.advice) from fault
        self._request_signatures(send_follow_up)
        self._unmask(send_follow_up)
        opened = self._session.open_sums()
        rate = self.sample_rate if self.settings.shares_noise else None
        update = read_update(opened, self._round.expected, rate)
        statistics = read_statistics(opened, self._round.statistics)
        blanks = read_blanks(opened, self._session.context.layout)
        link = self._session.build_link(digest_arrays(update | {f"statistics.{n}": a for n, a in statistics.items()}))
        aggregate = Aggregate(update, statistics, survivors, link.to_bytes(), blanks)
        self._fresh_sites = False
        kind, incoming = self._round.kind, digest_arrays(self._round.incoming)
        self._sums.save(kind, self._round.directive.round, incoming, aggregate)
        self._session.close_vector()
        return aggregate

    def _request_signatures(self, send_follow_up: SendFollowUp) -> None:
        """Request the survivors' signatures of their list; a list resumed from disk is already signed.

        Raises:
            AttemptFailedError: too few signed; no unmasking was requested.

        """
        request = self._session.sign_request()
        if request is None or self._resumed:
            return
        requests = dict.fromkeys(self._session.survivors, build_secagg_record(request))
        missing = request_until_enough(send_follow_up, SIGN, requests, self._session.add_signature)
        if missing is not None:
            raise AttemptFailedError(f"Too few sites signed the list of survivors{missing}", "See their own logs.")

    def _unmask(self, send_follow_up: SendFollowUp) -> None:
        """Request from the survivors the shares that unmask their sum, always for the same list.

        Raises:
            AttemptFailedError: too few replied, and enough sites promised that the sum can never open.
            SecureAggregationError: too few replied, and the sum may still open.

        """
        kind, survivors = self._round.kind, self._session.survivors
        self._contributors.record_sum(kind, self._session.context.descriptor.vector_digest.hex(), survivors)
        requests = {site: build_secagg_record(request) for site, request in self._session.unmask_requests().items()}
        missing = request_until_enough(send_follow_up, UNMASK, requests, self._session.add_unmask_reply)
        if missing is None:
            return
        problem = f"Too few sites opened their shares{missing}"
        requests = {site: build_secagg_record(each) for site, each in self._session.abandon_requests().items()}
        missing = request_until_enough(send_follow_up, ABANDON, requests, self._session.add_abandonment)
        self._contributors.record_failure(kind, survivors, is_abandoned=missing is None)
        if missing is not None:
            raise SecureAggregationError(problem, "See their own logs; nothing of this round was opened.")
        self._session.close_attempt()
        raise AttemptFailedError(problem, "See their own logs; the sites mask the same words again.")

    def _build_layout(self, attempt: RoundAttempt) -> Layout:
        """Return a segment for each tower of the update and one for the statistics."""
        members = [announced for _, announced in sorted(self._session.members.items())]
        update = {name: array.shape for name, array in attempt.expected.items()}
        thresholds = self._session.lead.thresholds
        plan = self.settings.plan_layout(update, attempt.statistics, thresholds, attempt.sensitivity)
        return plan.build(members, self._choose_threshold(attempt))

    def _choose_threshold(self, attempt: RoundAttempt) -> int:
        """Return how many sites must answer: never fewer than the thresholds of the run.

        Statistics are drawn once in a run, and a draw for fewer sites would need another one: so they wait for no site
        whose absence would cost them.
        """
        least, cohort = self._session.lead.thresholds.threshold, len(attempt.directive.cohort)
        asks_all = self.min_answers == "all"
        if self.min_answers is None:
            asks_all = self.settings.shares_noise and attempt.kind == TRAIN
        return max(least, cohort) if asks_all else least


def _list_entries(segment: Segment) -> list[str]:
    return [entry.name for entry in segment.entries]
