"""Merge the shared arrays of the lead with the site's private ones, and store what stays at the site."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clients.personalization.base import LocalRound, TrainingResult
from clients.site_setup import SiteSetup
from clients.transport.base import UploadAttempt
from clients.update_clipping import clip_update
from fedhealth.errors import RequestMismatchError
from fedhealth.models.modality_keys import METHOD
from fedhealth.models.model_state import compute_l2_norm, get_model_arrays, subtract_arrays, view_model_arrays
from fedhealth.protocol.array_codec import make_packed_arrays
from fedhealth.protocol.messages import Directive
from fedhealth.secagg.primitives.noise_grid import is_blank
from fedhealth.types import State


@dataclass(frozen=True)
class RoundUpdate:
    """The change of one round.

    Attributes:
        own: of this round alone.
        total: clipped, with the discounted update of the last round if that arrived too late.
        norm: L2 norm of `total`.
        late_rounds: the earlier rounds that are part of it.

    """

    own: State
    total: State
    norm: float
    late_rounds: tuple[int, ...] = ()


class StateMerger:
    """Merge and separate the shared and the private arrays of one site.

    Args:
        setup: of the site.

    """

    def __init__(self, setup: SiteSetup) -> None:
        self.setup = setup

    def merge(
        self,
        directive: Directive,
        incoming: State,
        aggregated: State,
        attempt: UploadAttempt,
        is_final: bool = False,
        purpose: str = "train",
    ) -> LocalRound:
        """Return the round's work: incoming arrays, with the site's own in place of those that are not aggregated.

        Args:
            directive: of the message.
            incoming: the arrays of the lead.
            aggregated: those of them that are summed over sites.
            attempt: of the request; knows which rounds count.
            is_final: whether training is over.
            purpose: of the request, for the privacy ledger.

        """
        setup, initial = self.setup, self.setup.initial
        number = directive.round + (1 if is_final else 0)
        stored = attempt.load_private(setup.get_store(directive), number)
        private = {n: array for n, array in stored.items() if n in initial.names and n not in aggregated}
        merged = initial.own | {n: array for n, array in incoming.items() if n in initial.names} | private
        if lacking := sorted(initial.names - set(merged)):
            raise RequestMismatchError(f"The message lacks the array {lacking[0]} of the model.", "Nothing was done.")
        return LocalRound(
            setup.build_task(directive, is_final),
            setup.trainer,
            setup.get_accounting(directive, purpose),
            shared={name: array for name, array in aggregated.items() if name in initial.names},
            merged=merged,
            extra={n.removeprefix(METHOD): array for n, array in aggregated.items() if n not in initial.names},
            client_state={n.removeprefix(METHOD): array for n, array in stored.items() if n not in initial.names},
            is_final=is_final,
        )

    def save_round(
        self, directive: Directive, local: LocalRound, update: RoundUpdate, digest: str, attempt: UploadAttempt
    ) -> None:
        """Store the arrays that are not aggregated, the method's client state, and the update in case it is late.

        Args:
            directive: of the message.
            local: the round's work.
            update: of the round.
            digest: of the words that leave; what is stored counts only if their release is recorded.
            attempt: of the request.

        """
        names = sorted(self.setup.initial.names - set(local.shared))
        client_state = {METHOD + name: array for name, array in local.client_state.items()}
        arrays = get_model_arrays(self.setup.model, names) | client_state
        store = self.setup.get_store(directive)
        attempt.save_private(store, directive.round, arrays, digest)
        if self.setup.config.strategy.staleness and self.setup.transport.is_plaintext:
            store.save_late_update(directive.round, update.own, digest)

    def save_personal(self, directive: Directive, local: LocalRound, incoming: State, personal: State) -> None:
        """Store the arrays in which the site's final model differs from the incoming one."""
        self.setup.get_store(directive).save_personal(select_own_arrays(local, incoming, personal))

    def compute_update(self, directive: Directive, local: LocalRound, result: TrainingResult) -> RoundUpdate:
        """Return the change of this round, clipped, plus the discounted last update if that arrived too late."""
        strategy = self.setup.config.strategy
        own, norm = self._subtract_shared(local, result)
        # under secure aggregation an update that seems late may be in an opened sum, and must not be in a second one
        is_late = strategy.staleness and self.setup.transport.is_plaintext and self.setup.site.name in directive.missed
        late = self.setup.get_store(directive).load_late_update(directive.round - 1) if is_late else {}
        added = {n: own[n] + np.float32(strategy.staleness) * a for n, a in late.items() if n in own}
        whole = own | added if added else own
        norm = compute_l2_norm(whole) if added else norm
        total, norm = clip_update(whole, norm, strategy.max_update_norm, self.setup.trainer.is_private)
        return RoundUpdate(own, total, norm, (directive.round - 1,) if added else ())

    def _subtract_shared(self, local: LocalRound, result: TrainingResult) -> tuple[State, float]:
        """Return what the round changed, and its norm: shared arrays or what is sent for them, and the method's own.

        It is computed where it will be sent from, or where only masked words are sent, in the model itself, whose
        trained arrays are overwritten by the next task.
        """
        sent = {n: a for n, a in (result.report.direction or {}).items() if n in local.shared or is_blank(n)}
        sent |= {METHOD + name: change for name, change in result.extra.items()}
        changed = {name: array for name, array in sorted(local.shared.items()) if name not in sent}
        trained = view_model_arrays(self.setup.model, changed)
        is_masked = not self.setup.transport.is_plaintext
        shapes = {name: array.shape for name, array in changed.items()}
        own = trained if is_masked else make_packed_arrays(shapes, "<f4")
        squares = subtract_arrays(trained, changed, own)
        return own | sent if sent else own, compute_l2_norm(sent, squares)


def select_own_arrays(local: LocalRound, incoming: State, personal: State) -> State:
    """Return the arrays in which the site's final model differs from the incoming one."""
    own = local.merged | personal
    # an array that came from the lead is the same object in both: the others are the site's own
    return {name: array for name, array in own.items() if array is not incoming.get(name)}
