"""Writes wire.json: frames that every implementation of the protocol must read and write alike.

Run it after a deliberate change of the protocol: ``python tests/conformance/make_wire.py``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ips_components.wire import framing, proof, values
from ips_components.wire import messages as m
from ips_components.wire.contact import Contact, Endpoint

ENDPOINTS = (
    Endpoint(0, "10.0.0.1", 4001, "@0abcd", "node1", "6e0c-boot", 321, 0x0123456789ABCDEF),
    Endpoint(3, "fe80::1", 65535, "/run/receiver.sock", "node2", "", 1 << 40),
)
COUNTERS = (
    m.Counters(0, (10, 4, 5, 1, 0), (1000, 400, 500, 100, 0), 3),
    m.Counters(2, (1, 0, 0, 0, 1), (1 << 40, 0, 0, 0, 1 << 40)),
)
DST = ((1, 1, 1), (0, 4, 2), (3, 5, 1))

PIECE = m.Piece(array=1, chunk=70, t=9, dst=DST, seq=5)
PROOFS = (
    (bytes(range(32)), proof.Channel(bytes(range(32, 64)), bytes(range(64, 96)), 1 << 62, 321)),
    (b"\xff" * 32, proof.Channel(bytes(32), b"\x80" * 32, 0, 0x0123456789ABCDEF)),
)
"""Tokens and connections."""

EXAMPLES: tuple[m.Message, ...] = (
    m.Hello(
        proof=bytes(range(32)),
        run="run-1",
        rank=2,
        size=4,
        pid=4711,
        session=0x1122334455667788,
        digest=bytes(range(32, 64)),
        epoch=3,
        heartbeat_ms=2000,
        info=b'{"host":"node1"}',
        flags=m.Hello.WANTS_CONTRACT,
    ),
    PIECE,
    m.Piece(
        array=1,
        chunk=70,
        t=9,
        dst=DST,
        slot=7,
        slot_offset=64,
        strides=(0, 80, -8),
        generation=3,
        seq=6,
    ),
    m.Rows(array=1, chunk=7, t=3, rows=0, seq=8),
    m.StepEnd(step=-1, waited_ns=123456789, counters=COUNTERS),
    m.StepTime(step=-7, time=0.1),
    m.Want(array=1, row=12),
    m.Dropped(array=1, chunk=24, seq=9),
    m.Dropped(array=1, chunk=3, seq=10, flags=m.Dropped.PASSED),
    m.Gone(array=1, chunk=25),
    m.Slot(slot=7, ring=2, size=1 << 21, length=4, spare=2, segment=5, offset=3 << 21),
    m.SlotDrop(slot=7, zero=0),
    m.Bye(last_step=99, status=1, counters=COUNTERS, reason="ValueError: é"),
    m.Ping(),
    m.Blocks(array=1, blocks=(((0, 8), (4, 8)), ((12, 0), (4, 16)))),
    m.Welcome(last_seq=17, ordinal=3, heartbeat_ms=2000, silence_ms=30000, flags=1),
    m.ContractIs(
        digest=bytes(range(32)),
        contract=b"IPSCTRT1 contract",
        endpoints=ENDPOINTS,
        first_step=12,
        launch=3,
        launch_flags=m.ContractIs.MANY_LAUNCHES | m.ContractIs.RENUMBER,
    ),
    m.Credit(array=1, rows=16),
    m.Resend(array=1, chunk=25),
    m.Ack(seq=17),
    m.Release(leases=((7, 3), (8, 1), (7, 4)), seq=17),
    m.PlacementIs(epoch=4, owners=(m.Owners(1, 4, 2, (0, 3, 3, 0)),), endpoints=ENDPOINTS),
    values.encode("gain", 12, 0.25),
    values.encode("steps", 12, [1, "two", None]),
    m.Feedback("grid", 0, values.INTEGER, (2, 2), bytes(range(32))),
    m.Fault(text="KeyError: 'x'", policy=m.Fault.ABORT),
    m.Stop(text="converged"),
    m.ByeAck(),
    m.Refused(text="another run"),
    m.Attach(contact=bytes(range(40))),
    m.Greeting(nonce=bytes(range(32)), session=0x1122334455667788),
    m.Challenge(nonce=bytes(range(32)), proof=bytes(range(32, 64))),
)


def _damaged() -> list[dict[str, str]]:
    piece = bytearray(framing.pack(PIECE))
    ndim = bytearray(piece)
    ndim[framing.HEADER_BYTES + 28] = 200
    release = framing.HEADER.pack(framing.MAGIC, m.VERSION, m.PlacementIs.OP, 0, 0, 16, 0, 0)
    return [
        {"why": "magic", "frame": (b"XPSc" + piece[4:]).hex()},
        {"why": "version", "frame": (piece[:4] + b"\x63" + piece[5:]).hex()},
        {"why": "unknown message", "frame": (piece[:5] + b"\xfa" + piece[6:]).hex()},
        {"why": "body too long", "frame": (piece[:16] + b"\xff\xff\xff\x7f" + piece[20:]).hex()},
        {"why": "too many dimensions", "frame": ndim.hex()},
        {"why": "body cut short", "frame": piece[:-8].hex()},
        {"why": "more owners than bytes", "frame": (release + b"\1\0\0\0" * 4).hex()},
    ]


def vectors() -> dict[str, Any]:
    """Return the content of wire.json."""
    # Limits that differ, so that one cannot be taken for the other.
    limits = {"slot_bytes": 288 << 20}
    contact = Contact("run-1", bytes(range(32)).hex(), ENDPOINTS, options=limits)
    return {
        "version": m.VERSION,
        "frames": [
            {
                "message": type(message).__name__,
                "op": message.OP,
                "fields": {k: _plain(v) for k, v in message.fields().items()},
                "frame": framing.pack(message).hex(),
            }
            for message in EXAMPLES
        ],
        "refused": _damaged(),
        "proofs": [
            {
                "token": token.hex(),
                **_plain(channel._asdict()),
                "of_rank": channel.proof_of_rank(token).hex(),
                "of_receiver": channel.proof_of_receiver(token).hex(),
            }
            for token, channel in PROOFS
        ],
        "contact": {
            "fields": _plain({k: v for k, v in contact.to_json().items() if k != "binary"}),
            "binary": contact.to_bytes().hex(),
        },
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (m.Counters, m.Owners)):
        return _plain(value.fields())
    if isinstance(value, Endpoint):
        return asdict(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


if __name__ == "__main__":
    file = Path(__file__).with_name("wire.json")
    file.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
