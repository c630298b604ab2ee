"""A site's state statements: they leave with its replies, and the lead and the members show them again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from clients.context import SiteContext
from clients.message import ParsedMessage
from fedhealth.consortium.identity import load_identity
from fedhealth.protocol.messages import STATEMENT, get_config_record
from fedhealth.secagg.client.statement_book import RestoredSiteError, StatementBook
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.statement import StateStatement
from fedhealth.site.egress_gate import ConfigRecordSchema
from fedhealth.site.state_history import load_statement_book


def open_statement_book(site: SiteContext, identity: Ed25519PrivateKey | None = None) -> StatementBook:
    """Return a site's book, shared by all its runs; the identity key is read unless it is given.

    Raises:
        SecureAggregationError: the site has no identity, or no approved members.

    """
    return load_statement_book(site.name, site.folder, site.audit, identity or load_identity(site.keys), create=True)


def find_restore_reasons(site: SiteContext, message: ParsedMessage) -> tuple[str, ...]:
    """Return why a hospital whose machine was restored from an older copy declines; empty if it was not.

    The lead gets a neutral sentence instead: the reason is not in the list of `decline_reasons`.
    """
    try:
        _check_own_state(site, message)
    except RestoredSiteError as fault:
        return (f"{fault.problem}; run `fedhealth site recover`",)
    return ()


def _check_own_state(site: SiteContext, message: ParsedMessage) -> None:
    """Check that this machine was not restored from an older copy, also by what the lead carries.

    The lead may show any statements; those that their owner never signed are ignored.

    Raises:
        RestoredSiteError: it was.

    """
    book = open_statement_book(site)
    book.learn_carried(_read_carried(message.content))
    book.require_current()


def add_statement(site: SiteContext, message: ParsedMessage, content: RecordDict, *, is_plaintext: bool) -> None:
    """Add the site's latest statement to a reply, for the lead to carry; without secure aggregation a new one."""
    book, directive = open_statement_book(site), message.directive
    if is_plaintext:
        data = book.issue_statement(directive.run, directive.exchange)
    else:
        data = bytes.fromhex(book.load_state().own)  # the one that the protocol's own message holds too
    content[STATEMENT] = ConfigRecord({"statement": data})


def make_statement_schema(site: str) -> ConfigRecordSchema:
    """Return the schema of the record: a well-formed statement of this site."""

    def is_own(value: object) -> bool:
        if not isinstance(value, bytes):
            return False
        with suppress(ProtocolViolationError):
            return StateStatement.from_bytes(value, site).site == site
        return False

    return ConfigRecordSchema({"statement": is_own})


def _read_carried(content: RecordDict) -> Sequence[bytes]:
    """Return the statements that the lead shows with a request."""
    if STATEMENT not in content:
        return ()
    carried = get_config_record(content, STATEMENT).get("statements", [])
    return [each for each in carried if isinstance(each, bytes)] if isinstance(carried, list) else ()
