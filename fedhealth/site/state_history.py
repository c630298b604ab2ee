"""A site's chains as its statements name them: the ends of its ledgers and of its audit log, and what they hold.

The latest statement is stored beside the audit log: if only the private folder is restored from an older copy, it tells
what the ledgers have lost without anybody's help.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.identity import load_roster
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.privacy.accounting.ledger_record import (
    MAX_RUNS,
    LedgerRecord,
    build_ledger_record,
    dump_records,
    load_records,
)
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.statement import (
    DIGEST_BYTES,
    MAX_STATEMENT_BYTES,
    StateHeads,
    StateStatement,
    digest_statement,
)
from fedhealth.secagg.protocol.store import FileStore, MemoryStore
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.job_history import find_ended_runs
from fedhealth.utils.hash_chain import START, read_hashes
from fedhealth.utils.private_files import make_private_folder, write_private_file

STATEMENT_EVENT = "statement"
_STATEMENTS = "statements"  # folder below the site's private one
_LAST_STATEMENT = "last-statement"  # file beside the audit log
_OTHER_BYTES = 1536  # of a statement, around its ledgers' heads and its record: 64 digests, names, seal, signature


@dataclass(frozen=True)
class LoggedStatement:
    """What the audit log holds of an own statement.

    Attributes:
        counter: its number.
        digest: by which it is named.
        ledgers: the last digest of every ledger, by data set.

    """

    counter: int
    digest: str
    ledgers: Mapping[str, str]


@dataclass(frozen=True)
class StateHistory:
    """The chains of one site; see `fedhealth.secagg.client.site_history.SiteHistory`.

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
        last = self.find_last_logged()
        return last.counter if last is not None else 0

    def holds_statement(self, name: str) -> bool:
        """Return whether the audit log holds the statement with this digest; true for a virtual site: it has no log."""
        lines = (line for line in self._list_statement_lines() if name.encode() in line)
        return self.audit is None or any((found := _parse_logged(line)) and found.digest == name for line in lines)

    def load_last_statement(self) -> bytes:
        """Return the latest own statement, as stored beside the audit log; empty without one, or if it is damaged."""
        path = self._statement_path
        data = path.read_bytes() if path is not None and path.is_file() else b""
        try:
            return StateStatement.from_bytes(data, "this site's own disk").to_bytes()
        except ProtocolViolationError:
            return b""

    def find_last_logged(self) -> LoggedStatement | None:
        """Return the last own statement that the audit log names, also where its chain is damaged."""
        found = (_parse_logged(line) for line in reversed(self._list_statement_lines()))
        return next((each for each in found if each is not None), None)

    def _list_statement_lines(self) -> list[bytes]:
        if self.audit is None or not self.audit.exists():
            return []
        mark = f'"event":"{STATEMENT_EVENT}"'.encode()
        lines = self.audit.read_bytes().split(b"\n")[:-1]  # a torn last line was never written
        return [line for line in lines if mark in line]

    def build_record(self) -> bytes:
        """Return what the site must know about its ledgers after a restore, compressed, so that it fits a statement.

        The more ledgers there are, the fewer runs of each are in it.

        Raises:
            PrivacyError: a ledger was edited, cut or damaged, or there are too many.

        """
        paths, ended = [path for _, path in find_ledgers(self.folder)], find_ended_runs(self.folder)
        for most_runs in (MAX_RUNS, MAX_RUNS // 2, MAX_RUNS // 4, 1):
            record = _compress_records([build_ledger_record(path, ended, most_runs) for path in paths])
            if len(record) + DIGEST_BYTES * len(paths) + _OTHER_BYTES <= MAX_STATEMENT_BYTES:
                return record
        problem = f"the site's {len(paths)} privacy ledgers do not fit into a statement of its state"
        raise PrivacyError(problem, "Nothing was booked or sent. Ask for help: no ledger may be deleted or moved away.")

    def log_statement(self, statement: StateStatement) -> None:
        """Write a new statement to the audit log, with the head of every ledger, and before that itself beside it."""
        if self.audit is None or self._statement_path is None:
            return
        make_private_folder(self.audit.parent)
        write_private_file(self._statement_path, statement.to_bytes())
        names = self._read_ledger_heads()
        ledgers = dict(zip(names, (head.hex() for head in statement.heads.ledgers), strict=False))
        about = {"counter": statement.counter, "run": statement.run, "exchange": statement.exchange}
        AuditLog(self.audit).write(
            STATEMENT_EVENT, **about, ledgers=ledgers, digest=digest_statement(statement.to_bytes()).hex()
        )

    @property
    def _statement_path(self) -> Path | None:
        return None if self.audit is None else self.audit.with_name(_LAST_STATEMENT)

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
    return zlib.compress(dump_records(records))


def parse_record(content: bytes) -> list[LedgerRecord]:
    """Return the records that `build_record` made."""
    return load_records(zlib.decompress(content))


def _parse_logged(line: bytes) -> LoggedStatement | None:
    """Return what a line of the audit log says about a statement; None for a damaged one."""
    try:
        entry = json.loads(line)["entry"]
        return LoggedStatement(int(entry["counter"]), str(entry["digest"]), dict(entry["ledgers"]))
    except (ValueError, TypeError, KeyError):
        return None


def _read_end(path: Path | None) -> str:
    """Return the hash of a chain's last line; `START` if there is none."""
    return (read_hashes(path) or [START])[-1] if path is not None else START
