"""The lead carries the sites' signed state statements: each request shows the latest one of every site.

A site that sees a statement of its own that its disk does not know declines at once (docs/secure-aggregation.md, "A
restored machine"). The lead cannot forge statements; a lead that withholds them is caught by the members.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.consortium.roster import Roster
from fedhealth.errors import FedhealthError
from fedhealth.flower.grid_wrapper import GridWrapper
from fedhealth.protocol.messages import END, STATEMENT
from fedhealth.secagg.protocol.statement import StateStatement, verify_statement
from fedhealth.secagg.protocol.store import StateStore, build_hashed_name


class StatementCarrier(GridWrapper):
    """A grid that adds the latest statements to every request and keeps those in the replies.

    Args:
        grid: that sends the messages.
        store: durable, of all runs of the lead.
        roster: the members; statements that they did not sign are dropped.

    """

    def __init__(self, grid: Grid, store: StateStore, roster: Roster) -> None:
        super().__init__(grid)
        self._store, self._roster = store, roster

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages with the statements of all members."""
        messages, known = list(messages), [data for site in self._roster.keys if (data := self._load(site))]
        for message in messages:
            if known and message.metadata.message_type != END:
                message.content[STATEMENT] = ConfigRecord({"statements": known})
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield replies; a site's statement is stored before its reply counts."""
        for message in self.grid.pull_messages(message_ids):
            if message.has_content():
                self._keep(message.content)
            yield message

    def _load(self, site: str) -> bytes:
        """Return the latest genuine statement of a site; empty if there is none."""
        data = self._store.get(_name_entry(site)) or b""
        return data if data and self._verify(data) else b""

    def _keep(self, content: RecordDict) -> None:
        record = content.get(STATEMENT)
        data = record.get("statement") if isinstance(record, ConfigRecord) else None
        found = self._verify(data) if isinstance(data, bytes) else None
        if found is None or not isinstance(data, bytes):
            return
        before = self._load(found.site)
        if not before or StateStatement.from_bytes(before, found.site).counter < found.counter:
            self._store.put(_name_entry(found.site), data)

    def _verify(self, data: bytes) -> StateStatement | None:
        try:
            return verify_statement(data, self._roster, "a site")
        except FedhealthError:
            return None


def _name_entry(site: str) -> str:
    return build_hashed_name("statement", site)
