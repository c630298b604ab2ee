"""What a process remembers is bounded, and the oldest leaves first."""

from fedhealth.secagg.primitives.remembered_digests import RememberedDigests


def test_the_oldest_digests_leave():
    found = RememberedDigests(3)
    for number in (1, 2, 3, 2, 4):
        found.add(bytes([number]))
    assert [number for number in range(6) if bytes([number]) in found] == [2, 3, 4]
    assert len(found) == 3
