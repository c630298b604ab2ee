import os
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.codec import MAX_MESSAGE_BYTES, MessageReader, MessageWriter
from fedhealth.secagg.primitives.layout import VectorSpec, make_model_segment, make_statistics_segment
from fedhealth.secagg.protocol.abandon import AbandonCertificate, Abandonment, AbandonRequest
from fedhealth.secagg.protocol.history import HistoryLink
from fedhealth.secagg.protocol.messages import (
    AttemptDescriptor,
    KeyAnnouncement,
    MaskedUpload,
    SignRequest,
    SurvivorSignature,
    UnmaskReply,
    UnmaskRequest,
)
from fedhealth.secagg.protocol.statement import MAX_SHOWN, MAX_STATEMENT_BYTES, StateHeads, StateStatement
from fedhealth.secagg.protocol.vector_name import VectorName

D, S = os.urandom(32), os.urandom(64)
LAYOUT = (
    make_model_segment("m", "image", {"a": 3, "b": 1}, bound=0.5, bits=20, sites=4, normaliser=9, clamp_share=0.01),
    make_statistics_segment("s", "image", (VectorSpec("roc", 4, 1e6, 1),), sites=4),
)
ATTEMPT = AttemptDescriptor(
    "run", D, D, 7, 2, VectorName("describe", 3, 7), D, 3, True, (b"one", b"two"), ("a", "b"), ("a",), D, D, LAYOUT
)
MESSAGES: list[Any] = [
    KeyAnnouncement("run", D, "a", 2**40, D, (("image", 3), ("text", 0)), b"own", (("b", (b"n" * 16,)), ("c", ())), S),
    ATTEMPT,
    MaskedUpload(D, "a", (b"t" * 16, b"u" * 16), b"c" * 32, (b"x", b"y"), (b"e", b""), (D,), S),
    SignRequest(D, ("a", "b.c-d_0")),
    SurvivorSignature(D, "a", S),
    UnmaskRequest(D, ("a", "b"), (("a", S),), (b"1", b"2"), (b"3", b"4")),
    UnmaskReply(D, "a", ("m", "s"), b"shares", S),
    AbandonRequest(D),
    Abandonment(D, "a", S),
    AbandonCertificate(D, (("a", S), ("b", S))),
    HistoryLink(ATTEMPT, ("a", "b"), ("m",), D, D, (("a", D, S),)),
]


def by_type(message):
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=by_type)
def test_round_trip(message):
    data = message.to_bytes()
    assert type(message).from_bytes(data, "site-x") == message


@pytest.mark.parametrize("message", MESSAGES, ids=by_type)
def test_every_truncation_and_extension_names_the_sender(message):
    data = message.to_bytes()
    for bad in (*(data[:n] for n in range(len(data))), data + b"\0"):
        with pytest.raises(ProtocolViolationError, match="from site-x is") as caught:
            type(message).from_bytes(bad, "site-x")
        assert caught.value.blame == ("site-x",)


@pytest.mark.parametrize("message", MESSAGES, ids=by_type)
def test_a_flipped_bit_is_refused_or_seen(message):
    """No two encodings mean the same: what still parses differs, and encodes to exactly what was received."""
    data = message.to_bytes()
    for position in range(8 * len(data)):
        bad = bytearray(data)
        bad[position // 8] ^= 1 << position % 8
        try:
            found = type(message).from_bytes(bytes(bad), "site-x")
        except ProtocolViolationError:
            continue
        assert found != message
        assert found.to_bytes() == bytes(bad)


@pytest.mark.parametrize("other", MESSAGES, ids=by_type)
def test_one_message_is_not_taken_for_another(other):
    for message in MESSAGES:
        if type(message) is not type(other):
            with pytest.raises(ProtocolViolationError, match="another kind"):
                type(other).from_bytes(message.to_bytes(), "site-x")


def test_oversized_messages_are_not_parsed():
    with pytest.raises(ProtocolViolationError, match="oversized"):
        SignRequest.from_bytes(bytes(MAX_MESSAGE_BYTES + 1), "site-x")


def test_a_count_beyond_the_message_is_refused_before_it_is_read():
    data = MessageWriter(4).fixed_bytes(D, 32).number(2**32 - 1, 4).bytes()
    with pytest.raises(ProtocolViolationError, match="truncated"):
        SignRequest.from_bytes(data, "site-x")


@pytest.mark.parametrize("site", ["", "A", "Site", "sité", "a b", "-a", "a" * 65, "a\n", "ｓite"])
def test_site_ids_are_plain_lower_case(site):
    with pytest.raises(ProtocolViolationError, match="site id"):
        SignRequest.from_bytes(SignRequest(D, (site,)).to_bytes(), "site-x")


def test_malformed_text_and_flags():
    with pytest.raises(ProtocolViolationError, match="text"):
        MessageReader(MessageWriter(1).blob(b"\xff").bytes(), 1, "thing", "site-x").text()
    with pytest.raises(ProtocolViolationError, match="flag"):
        MessageReader(MessageWriter(1).number(2, 1).bytes(), 1, "thing", "site-x").flag()
    with pytest.raises(ValueError, match="expected 4 bytes, got 3"):
        MessageWriter(1).fixed_bytes(b"abc", 4)


@pytest.mark.parametrize(
    ("size", "shown", "most"),
    [
        (7174, 1, 1.2e6),  # measured: ordinary use of eight data sets, and members that show the same
        (MAX_STATEMENT_BYTES, MAX_SHOWN, 3.2e6),  # the largest, and no two members show the same
    ],
)
def test_a_request_to_train_grows_with_the_sites_and_not_with_their_pairs(size, shown, most):
    names, identity = tuple(f"hospital-{number:03d}" for number in range(100)), Ed25519PrivateKey.generate()
    named = tuple((site, tuple(os.urandom(16) for _ in range(shown))) for site in names[1:])
    statement = StateStatement("s", 1, "r", 0, StateHeads(), b"").sign(identity).to_bytes()
    member = KeyAnnouncement("r" * 64, D, names[0], 1, D, (("image", 3),), statement.ljust(size), named, S).to_bytes()
    request = replace(ATTEMPT, members=(member,) * 100, base=names, cohort=names).to_bytes()
    assert len(request) < most
    assert (
        len(request) + 99 * MAX_SHOWN * MAX_STATEMENT_BYTES < MAX_MESSAGE_BYTES / 4
    )  # with the reader's own statements


@pytest.mark.parametrize("values", [(), (b"",), (b"a", b"", b"long" * 9)])
def test_a_list_of_byte_strings_is_refused_wherever_it_is_cut(values):
    data = MessageWriter(1).blobs(values).bytes()
    reader = MessageReader(data, 1, "thing", "site-x")
    assert reader.blobs() == values
    reader.end()
    for size in range(len(MessageWriter(1).bytes()), len(data)):
        with pytest.raises(ProtocolViolationError, match="truncated"):
            MessageReader(data[:size], 1, "thing", "site-x").blobs()
