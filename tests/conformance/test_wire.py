"""Every message survives its bytes; damaged bytes are refused, never believed."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_wire import EXAMPLES

from ips_components.errors import ContactError, ProtocolError
from ips_components.wire import framing, values
from ips_components.wire import messages as m
from ips_components.wire.contact import Endpoint, pack_endpoints, parse_endpoints

VECTORS = json.loads(Path(__file__).with_name("wire.json").read_text())


def through(message, data=0):
    frame = framing.pack(message, data)
    header = framing.parse_header(frame)
    assert framing.HEADER_BYTES + header.body == len(frame)
    return framing.parse(header, memoryview(frame)[framing.HEADER_BYTES :])


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_survives_its_bytes(message):
    assert through(message) == message


def test_there_is_an_example_of_every_message():
    assert {type(message) for message in EXAMPLES} == set(m.BY_OP.values())


def test_vectors_are_those_of_the_examples():
    assert [vector["frame"] for vector in VECTORS["frames"]] == [
        framing.pack(message).hex() for message in EXAMPLES
    ]


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["message"])
def test_vector_is_parsed(vector):
    frame = bytes.fromhex(vector["frame"])
    header = framing.parse_header(frame)
    message = framing.parse(header, memoryview(frame)[framing.HEADER_BYTES :])
    assert type(message).__name__ == vector["message"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda v: v["why"])
def test_refused_vector_is_refused(vector):
    frame = bytes.fromhex(vector["frame"])
    with pytest.raises(ProtocolError):
        header = framing.parse_header(frame)
        framing.parse(header, memoryview(frame)[framing.HEADER_BYTES :])


def test_pack_piece_is_the_same_as_pack():
    plain = m.Piece(2, 70, 9, ((1, 1, 1), (4, 8, 2)), seq=5)
    assert framing.pack_piece(2, 5, 70, 9, plain.dst, 64) == framing.pack(plain, 64)
    slot = m.Piece(
        2, 70, 9, plain.dst, slot=3, slot_offset=64, strides=(0, -8), generation=4, seq=5
    )
    frame = framing.pack_piece(2, 5, 70, 9, plain.dst, 0, 3, 64, (0, -8), generation=4)
    assert frame == framing.pack(slot)


def test_pack_step_end_is_the_same_as_pack():
    counters = m.Counters(1, (5, 1, 4, 0, 0), (50, 10, 40, 0, 0), 3)
    frame = framing.pack_step_end(7, 12, [1, *counters.blocks, *counters.bytes, 3])
    assert frame == framing.pack(m.StepEnd(7, 12, (counters,)))


@given(st.binary(max_size=200))
def test_any_header_is_parsed_or_refused(junk):
    if len(junk) < framing.HEADER_BYTES:
        with pytest.raises(struct.error):
            framing.parse_header(junk)
        return
    with pytest.raises(ProtocolError):
        framing.parse_header(junk)


@given(st.sampled_from(sorted(m.BY_OP)), st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_any_body_is_parsed_or_refused(op, body, array):
    header = framing.Header(op, 0, 1, len(body), array, 0)
    try:
        message = framing.parse(header, memoryview(body))
    except ProtocolError:
        return
    assert isinstance(message, m.BY_OP[op])


@given(st.lists(st.sampled_from(EXAMPLES), max_size=6), st.integers(1, 64))
def test_decoder_finds_messages_wherever_the_bytes_are_cut(messages, size):
    stream = b"".join(map(framing.pack, messages))
    decoder = framing.Decoder()
    found = []
    for at in range(0, len(stream), size):
        found += decoder.feed(stream[at : at + size])
    assert found == messages


def test_decoder_refuses_cells():
    frame = framing.pack(m.Piece(0, 0, 0, ((0, 1, 1),)), 8)
    with pytest.raises(ProtocolError, match="raw cells"):
        framing.Decoder().feed(frame)


def test_lengths_are_bounded_before_anything_is_allocated():
    head = framing.HEADER.pack(framing.MAGIC, m.VERSION, m.Ping.OP, 0, 0, 1 << 30, 0, 0)
    with pytest.raises(ProtocolError, match="at most 4096"):
        framing.parse_header(head)


def test_another_version_is_named():
    head = framing.HEADER.pack(framing.MAGIC, 9, m.Ping.OP, 0, 0, 0, 0, 0)
    with pytest.raises(ProtocolError, match="version 9"):
        framing.parse_header(head)


@given(
    st.one_of(
        st.floats(allow_nan=False),
        st.integers(-(2**63), 2**63 - 1),
        st.text(),
        st.dictionaries(st.text(), st.integers() | st.none()),
        st.lists(st.booleans()),
    )
)
def test_values_survive(value):
    assert values.decode(through(values.encode("name", 3, value))) == value


def test_value_that_nothing_can_carry():
    with pytest.raises(ProtocolError, match="numbers, text or JSON"):
        values.encode("name", 0, {"a": object()})


def test_endpoints_cut_short():
    packed = pack_endpoints((Endpoint(0, "host", 1),))
    with pytest.raises((ValueError, ContactError, struct.error)):
        parse_endpoints(packed[:-2])
