"""A site's chains as its statements name them: the ends of its ledgers and of its audit log, and what they hold."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.identity import load_roster
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.privacy.accounting.ledger_record import MAX_RUNS, LedgerRecord, build_ledger_record
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.protocol.statement import DIGEST_BYTES, MAX_STATEMENT_BYTES, StateHeads, StateStatement
from fedhealth.secagg.protocol.store import FileStore, MemoryStore
from fedhealth.site.audit_log import AuditLog
from fedhealth.utils.digest import digest_parts
from fedhealth.utils.hash_chain import START, read_hashes

STATEMENT_EVENT = "statement"
_STATEMENTS = "statements"  # folder below the site's private one
_OTHER_BYTES = 512  # of a statement, around its ledgers' heads and its record: names, numbers, seal, signature


@dataclass(frozen=True)
class StateHistory:
    """The chains of one site; see `fedhealth.secagg.client.statement_book.SiteHistory`.

    Attributes:
        folder: the site's private folder, with its ledgers.
        audit: path of its audit log; None for a virtual site.

    """

    folder: Path
    audit: Path | None

    def read_heads(self) -> StateHeads:
        """Return the ends of the chains."""
        heads = self._read_ledger_heads()
        return StateHeads(tuple(map(bytes.fromhex, heads.values())), bytes.fromhex(_read_end(self.audit)))

    def holds_heads(self, heads: StateHeads) -> bool:
        """Return whether the chains contain all of these lines."""
        lines = {digest for _, path in find_ledgers(self.folder) for digest in (START, *read_hashes(path))}
        has_ledgers = all(head.hex() in lines for head in heads.ledgers)
        return has_ledgers and (self.audit is None or heads.audit.hex() in {START, *read_hashes(self.audit)})

    def find_last_counter(self) -> int:
        """Return the counter of the last own statement in the audit log; 0 without one."""
        lines = self._list_statement_lines()
        return int(json.loads(lines[-1])["entry"]["counter"]) if lines else 0

    def holds_statement(self, statement: StateStatement) -> bool:
        """Return whether the audit log holds this very statement; true for a virtual site, which has none."""
        if self.audit is None:
            return True
        digest = _digest_logged(statement)
        logged = [line for line in self._list_statement_lines() if digest.encode() in line]
        return any(json.loads(line)["entry"].get("sha256") == digest for line in logged)

    def build_record(self) -> bytes:
        """Return what the site must know about its ledgers after a restore, compressed, so that it fits a statement.

        The more ledgers there are, the fewer runs of each are in it.

        Raises:
            PrivacyError: a ledger was edited, cut or damaged, or there are too many.

        """
        paths = [path for _, path in find_ledgers(self.folder)]
        for most_runs in (MAX_RUNS, MAX_RUNS // 2, MAX_RUNS // 4, 1):
            record = _compress_records([build_ledger_record(path, most_runs) for path in paths])
            if len(record) + DIGEST_BYTES * len(paths) + _OTHER_BYTES <= MAX_STATEMENT_BYTES:
                return record
        problem = f"the site's {len(paths)} privacy ledgers do not fit into a statement of its state"
        raise PrivacyError(problem, "Nothing was booked or sent. Ask for help: no ledger may be deleted or moved away.")

    def log_statement(self, statement: StateStatement) -> None:
        """Write a new statement to the audit log, with the head of every ledger."""
        if self.audit is None:
            return
        names = self._read_ledger_heads()
        ledgers = dict(zip(names, (head.hex() for head in statement.heads.ledgers), strict=False))
        about = {"counter": statement.counter, "run": statement.run, "exchange": statement.exchange}
        AuditLog(self.audit).write(STATEMENT_EVENT, **about, ledgers=ledgers, sha256=_digest_logged(statement))

    def _list_statement_lines(self) -> list[bytes]:
        if self.audit is None or not self.audit.exists():
            return []
        mark = f'"event":"{STATEMENT_EVENT}"'.encode()
        return [line for line in self.audit.read_bytes().splitlines() if mark in line]

    def _read_ledger_heads(self) -> dict[str, str]:
        return {path.stem: _read_end(path) for _, path in find_ledgers(self.folder)}


def load_statement_book(
    site: str, folder: Path, audit: Path | None, identity: Ed25519PrivateKey, *, create: bool
) -> StatementBook:
    """Return the book of a site's own statements; without `create` nothing is written where there is none.

    Raises:
        SecureAggregationError: no members are approved.

    """
    path = folder / _STATEMENTS
    store = FileStore(path) if create or path.is_dir() else MemoryStore()
    return StatementBook(store, site, identity, load_roster(folder), StateHistory(folder, audit))


def _compress_records(records: Sequence[LedgerRecord]) -> bytes:
    return zlib.compress(json.dumps([each.dump_fields() for each in records], separators=(",", ":")).encode())


def parse_record(content: bytes) -> list[LedgerRecord]:
    """Return the records that `build_record` made."""
    fields: list[Mapping[str, Any]] = json.loads(zlib.decompress(content))
    return [LedgerRecord.parse(each) for each in fields]


def _digest_logged(statement: StateStatement) -> str:
    return digest_parts(b"state statement", statement.to_bytes()).hex()


def _read_end(path: Path | None) -> str:
    """Return the hash of a chain's last line; `START` if there is none."""
    return (read_hashes(path) or [START])[-1] if path is not None else START
