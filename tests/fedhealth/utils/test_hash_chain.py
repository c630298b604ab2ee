"""What is read of a chain whose last line was torn by a power cut."""

import os

import pytest

from fedhealth.utils.hash_chain import BrokenChainError, append_entry, create_chain, load_chain, read_hashes


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


@pytest.mark.parametrize("line", ["[" * 100_000, '{"entry": ' + "[" * 100_000])
def test_a_line_that_cannot_be_parsed_is_damage(tmp_path, line):
    path = tmp_path / "chain.jsonl"
    create_chain(path)
    path.write_text(f"{line}\n")
    with pytest.raises(BrokenChainError, match="a line cannot be read"):
        load_chain(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_a_chains_place_is_damage(chain, make):
    chain.unlink()
    make(chain)
    with pytest.raises(BrokenChainError, match="it cannot be read"):
        load_chain(chain)
