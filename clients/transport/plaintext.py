"""Plaintext transport: the lead sees each site's own update and statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from flwr.app import RecordDict
from safetensors import SafetensorError, safe_open

from clients.context import RunContext, SiteContext
from clients.message import ParsedMessage
from clients.release import Release, ReleaseRecorder
from clients.site_store import SiteStore
from clients.transport.base import ReplyShapes, compute_request_digest
from fedhealth.errors import SecureAggregationError
from fedhealth.protocol.array_codec import get_arrays, pack_arrays, unpack_arrays
from fedhealth.protocol.count_codec import pack_counts, unpack_counts
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, STATISTICS, TRAIN, UPDATE
from fedhealth.site.egress_gate import ArrayRecordSchema, CountRecordSchema, ReplySchema
from fedhealth.types import State
from fedhealth.utils.array_file import write_array_file

_REPLY = "answer.safetensors"


class PlaintextAttempt:
    """An upload in plaintext; every tower is aggregated.

    The last reply is stored, to be sent again: private words must not be drawn twice, and a hospital should not train
    twice. A crash may lose what can be computed again; a virtual site, which loses no reply on the way, stores nothing.

    Args:
        path: of the file with the last reply; None stores none.
        request_digest: of the request; empty where none is stored.
        recorder: of the releases of private words.

    """

    def __init__(self, path: Path | None, request_digest: str, recorder: ReleaseRecorder) -> None:
        self._path, self._request_digest, self.recorder = path, request_digest, recorder

    def is_aggregated(self, tower: str) -> bool:
        """Return True."""
        return True

    def get_noise_shares(self) -> None:
        """Return None: the lead sees each reply, so each has its whole noise."""

    def load_private(self, store: SiteStore, number: int) -> State:
        """Return the private arrays from before round `number`, also if the round was started several times."""
        return store.load_before(number)

    def save_private(self, store: SiteStore, number: int, arrays: State, digest: str) -> None:
        """Store what the round leaves at the site."""
        store.save_private(number, arrays, digest)

    def load_cached_reply(self) -> RecordDict | None:
        """Return the last reply if it was to the same request and its release is recorded."""
        if self._path is None:
            return None
        try:
            about, arrays = _read_file(self._path)
        except SafetensorError:  # damaged: the words are lost
            self._path.unlink()
            return None
        if about.get("request") != self._request_digest:
            return None
        update, statistics = _select_part(UPDATE, arrays), _select_part(STATISTICS, arrays)
        release = Release.loads(about["release"])
        if self.recorder.identify(update, statistics).digest != release.digest or not self.recorder.confirm(release):
            self._path.unlink()
            return None
        return _build_records(update, statistics)

    def build_reply(self, update: State, statistics: Mapping[str, np.ndarray], release: Release) -> RecordDict:
        """Store the words, record their release and return the records."""
        if self._path is not None:
            parts = {UPDATE: update, STATISTICS: statistics}
            arrays = {f"{part}/{name}": array for part, named in parts.items() for name, array in named.items()}
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            about = {"request": self._request_digest, "release": release.dumps()}
            write_array_file(self._path, arrays, about, durable=self.recorder.is_private)
        self.recorder.record(release)
        return _build_records(update, dict(statistics))


def _read_file(path: Path) -> tuple[dict[str, str], State]:
    """Return what a stored reply is about, and its arrays; both empty if there is none."""
    if not path.is_file():
        return {}, {}
    with safe_open(path, framework="numpy") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _build_records(update: State, statistics: State) -> RecordDict:
    reply = RecordDict({STATISTICS: pack_counts(statistics)})
    if update:
        reply[UPDATE] = pack_arrays(update)
    return reply


def _select_part(part: str, arrays: State) -> State:
    return {name.removeprefix(f"{part}/"): a for name, a in arrays.items() if name.startswith(f"{part}/")}


class PlaintextTransport:
    """No secure aggregation."""

    is_plaintext = True

    def announce(
        self, run: RunContext, rows: Mapping[str, int], noise: tuple[float, float] = (0.0, 0.0)
    ) -> tuple[dict[str, float], RecordDict]:
        """Announce exact counts."""
        return {tower: float(count) for tower, count in rows.items()}, RecordDict()

    def count_noise_shares(self, site: SiteContext) -> int:
        """Return 1: nobody adds up noise that the lead can see through."""
        return 1

    def accept_attempt(
        self,
        run: RunContext,
        message: ParsedMessage,
        incoming: State,
        recorder: ReleaseRecorder,
        shapes: ReplyShapes,
        digest_initial: Callable[[], bytes],
    ) -> PlaintextAttempt:
        """Accept every attempt: the lead sees everything in any case."""
        if run.site.audit is None and not recorder.is_private:
            return PlaintextAttempt(None, "", recorder)
        return PlaintextAttempt(run.site.arrays / _REPLY, compute_request_digest(run, message, incoming), recorder)

    def identify_reply(self, run: RunContext, content: RecordDict, recorder: ReleaseRecorder) -> Release:
        """Return the release of the arrays as they are in the reply."""
        update = unpack_arrays(get_arrays(content, UPDATE)) if UPDATE in content else {}
        statistics = unpack_counts(get_arrays(content, STATISTICS)) if STATISTICS in content else {}
        return recorder.identify(update, statistics)

    def get_last_exchange(self, run: RunContext) -> int:
        """Return 0: this transport does not record exchanges."""
        return 0

    def handle_message(self, run: RunContext, message: ParsedMessage) -> RecordDict:
        """Raise: this site runs without secure aggregation."""
        raise SecureAggregationError("This run has no secure aggregation.", "Use secagg=on at lead and sites.")

    def get_reply_schema(self, run: RunContext, kind: str, shapes: ReplyShapes) -> ReplySchema:
        """Return the schema: the statistics, and after training the update."""
        forms: dict[str, ArrayRecordSchema | CountRecordSchema] = {}
        if kind in (TRAIN, EVALUATE, DESCRIBE):
            forms[STATISTICS] = CountRecordSchema(shapes.statistics)
        if kind == TRAIN:
            forms[UPDATE] = ArrayRecordSchema(shapes.update, "<f4")
        return forms
