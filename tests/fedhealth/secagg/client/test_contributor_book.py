"""The contributors of opened sums that hold values which are sent more than once."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.client.contributor_book import CONTRIBUTORS_FOLDER, ContributorBook, find_smallest_group
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.store import FileStore, MemoryStore

SITES = ("a", "b", "c", "d", "e", "f")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"uploaded": "v"}', b'{"uploaded": "v", "sums": []}'])
def test_a_damaged_book_refuses_and_names_the_way_out(tmp_path, damage):
    store = FileStore(tmp_path)
    ContributorBook(store).record_sum("release", "first", SITES[:3])
    next(path for path in tmp_path.iterdir() if path.name.startswith("release-")).write_bytes(damage)
    with pytest.raises(ProtocolViolationError, match=CONTRIBUTORS_FOLDER) as caught:
        ContributorBook(store).check_groups("release", "second", SITES, 2)
    assert "site recover" in caught.value.advice


@given(sums=st.lists(st.sets(st.sampled_from(SITES), min_size=2), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_difference_of_allowed_sums_is_smaller_than_a_group(sums):
    """Every pair of sums differs in whole groups."""
    least = len(find_smallest_group(sums))
    assert all(len(one ^ other) == 0 or len(one ^ other) >= least for one, other in combinations(sums, 2))
    assert min(map(len, sums)) >= least


def test_an_upload_whose_sum_is_unknown_blocks_the_next_one():
    book = ContributorBook(MemoryStore())
    book.record_upload("release", "first")
    with pytest.raises(ProtocolViolationError, match="not known here"):
        book.record_upload("release", "second")
    book.record_sum("release", "first", SITES)
    book.record_upload("release", "second")
