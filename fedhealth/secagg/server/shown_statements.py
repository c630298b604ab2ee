"""The statements that the members' announcements name: the lead brings each site its own ones with TRAIN."""

from collections.abc import Iterable, Sequence

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.errors import refuse_unless
from fedhealth.secagg.protocol.messages import KeyAnnouncement
from fedhealth.secagg.protocol.statement import digest_statement, verify_statement
from fedhealth.secagg.protocol.store import StateStore, build_hashed_name


class ShownStatements:
    """What the announcements of one run name.

    Args:
        store: durable.
        roster: the approved members.

    """

    def __init__(self, store: StateStore, roster: Roster) -> None:
        self._store, self._roster = store, roster

    def keep_shown(self, data: bytes, statements: Sequence[bytes], sender: str) -> None:
        """Keep the statements that an announcement names.

        Args:
            data: ANNOUNCE.
            statements: that came with it.
            sender: the site that sent both.

        Raises:
            ProtocolViolationError: one is missing, or its owner never signed it. Nobody could check the announcement.

        """
        found = {digest_statement(each): each for each in statements}
        owners = {name: verify_statement(each, self._roster, sender).site for name, each in found.items()}
        named = [(site, name) for site, names in KeyAnnouncement.from_bytes(data, sender).shown for name in names]
        is_whole = all(owners.get(name) == site for site, name in named)
        refuse_unless(is_whole, f"{sender} names a statement that it does not send", rule="R13", blame=(sender,))
        for _, name in named:
            self._store.put(_name_entry(name), found[name])

    def list_shown(self, site: str, members: Iterable[KeyAnnouncement]) -> tuple[bytes, ...]:
        """Return the statements of a site that the members name, each once."""
        names = dict.fromkeys(name for member in members for name in member.get_shown_names(site))
        stored = (self._store.get(_name_entry(name)) for name in names)
        return tuple(data for data in stored if data is not None)


def _name_entry(name: bytes) -> str:
    return build_hashed_name("shown", name.hex())
