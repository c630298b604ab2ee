"""What is read of a chain whose last line was torn by a power cut."""

import pytest

from fedhealth.utils.hash_chain import append_entry, create_chain, load_chain, read_hashes


@pytest.fixture(name="chain")
def chain_(tmp_path):
    path = tmp_path / "chain.jsonl"
    create_chain(path)
    end = load_chain(path)[1]
    for number in range(3):
        end = append_entry(path, end, {"number": number})
    return path


def test_a_torn_line_is_no_entry_wherever_it_is_torn(chain):
    whole, hashes = chain.read_bytes(), read_hashes(chain)
    assert len(hashes) == 3
    last = len(whole.splitlines(keepends=True)[-1])
    for size in range(len(whole) - last, len(whole)):
        chain.write_bytes(whole[:size])
        assert read_hashes(chain) == hashes[:2], size


def test_a_missing_file_has_no_entries(tmp_path):
    assert read_hashes(tmp_path / "missing") == []
