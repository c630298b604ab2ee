"""The contributors of opened sums that hold values which are sent more than once."""

import pytest

from fedhealth.secagg.client.contributor_book import CONTRIBUTORS_FOLDER, ContributorBook
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.store import FileStore, MemoryStore

SITES = ("a", "b", "c", "d", "e", "f")


def refused(problem):
    return pytest.raises(ProtocolViolationError, match=f"^R11: .*{problem}")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"vector": "v"}', b'{"vector": "v", "contributors": 1}'])
def test_a_damaged_book_refuses_and_names_the_way_out(tmp_path, damage):
    store = FileStore(tmp_path)
    ContributorBook(store).record_contributors("release", "first", SITES[:3])
    next(path for path in tmp_path.iterdir() if path.name.startswith("words-")).write_bytes(damage)
    with pytest.raises(ProtocolViolationError, match=CONTRIBUTORS_FOLDER) as caught:
        ContributorBook(store).check_contributors("release", "second", SITES)
    assert "site recover" in caught.value.advice


def test_the_first_sum_fixes_the_contributors_of_all_later_ones():
    book = ContributorBook(MemoryStore())
    book.check_contributors("data", "first", SITES[:3])
    book.record_contributors("data", "first", SITES[:3])
    book.record_contributors("data", "second", SITES)  # a person allowed it
    book.check_contributors("data", "third", SITES[:3])
    for other in (SITES, SITES[:2], SITES[1:4]):
        with refused("must keep its contributors"):
            book.check_contributors("data", "third", other)
    book.check_contributors("other data", "third", SITES)


def test_an_abandoned_list_of_the_same_vector_fixes_nothing():
    """R10 has checked the proof that the first list can never open; another vector is bound by the last one."""
    book = ContributorBook(MemoryStore())
    for survivors in (SITES[:3], SITES[:4]):
        book.check_contributors("release", "first", survivors)
        book.record_contributors("release", "first", survivors)
    book.check_contributors("release", "second", SITES[:4])
    with refused("must keep its contributors"):
        book.check_contributors("release", "second", SITES[:3])


def test_a_recovered_site_does_not_guess_the_contributors_of_sums_that_it_may_have_forgotten():
    book = ContributorBook(MemoryStore())
    book.record_contributors("data", "first", SITES[:2])
    book.require_complete("other data")
    book.mark_incomplete()
    book.require_complete("data")
    with refused("before this site's recovery"):
        book.require_complete("other data")
    book.record_contributors("other data", "second", SITES[:2])  # a person allowed it
    book.require_complete("other data")
