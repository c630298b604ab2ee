"""What a book of statements needs to know about the disk of its site."""

from typing import Protocol

from fedhealth.secagg.protocol.statement import StateHeads, StateStatement


class SiteHistory(Protocol):
    """What a site's disk holds: ledgers and audit log."""

    def read_heads(self) -> StateHeads:
        """Return the ends of the chains."""

    def holds_heads(self, heads: StateHeads) -> bool:
        """Return whether the chains contain all of these lines."""

    def find_last_counter(self) -> int:
        """Return the counter of the last own statement in the audit log; 0 without one."""

    def holds_statement(self, name: str) -> bool:
        """Return whether the audit log holds the statement with this digest; true where there is no log."""

    def load_last_statement(self) -> bytes:
        """Return the latest own statement, as stored beside the audit log; empty without one."""

    def build_record(self) -> bytes:
        """Return what the site must know about itself after a restore."""

    def log_statement(self, statement: StateStatement) -> None:
        """Write a new statement to the audit log, and itself beside it."""


class EmptyHistory:
    """The chains of a site that has booked and logged nothing, and stores nothing."""

    def read_heads(self) -> StateHeads:
        """Return the heads of empty chains."""
        return StateHeads()

    def holds_heads(self, heads: StateHeads) -> bool:
        """Return True."""
        return True

    def find_last_counter(self) -> int:
        """Return 0."""
        return 0

    def build_record(self) -> bytes:
        """Return nothing."""
        return b""

    def holds_statement(self, name: str) -> bool:
        """Return true: there is no audit log."""
        return True

    def load_last_statement(self) -> bytes:
        """Return nothing."""
        return b""

    def log_statement(self, statement: StateStatement) -> None:
        """Write nothing."""
