"""What ranks and receivers say to each other, with the exact bytes of every message.

Every message is one frame: a header of 32 bytes, a body, then raw cells where the message carries
any. All integers are little-endian. What a rank *receives* is binary with fixed offsets, so that a
C bridge needs nothing but libc; JSON occurs only in texts that a rank writes (``Hello.info``).

Header (``framing.HEADER``)

====== ===== ======== ====================================================================
offset type  field    meaning
====== ===== ======== ====================================================================
0      4s    magic    ``b"IPSc"``
4      u8    version  version of this protocol, `VERSION`
5      u8    op       code of the message, see below
6      u16   flags    `Hello`: 1 = asks for the contract; `Welcome`: 1 = contract is there;
                      `Piece`: 1 = the rank waits for the answer; `Dropped`: 1 = the rank had
                      put the step before it got the contract
8      u64   seq      `Piece`, `Rows`, `Dropped`: 1, 2, 3, ... per rank and receiver; `Release`:
                      number up to which all messages were taken; else 0
16     u32   body     bytes of the body
20     u32   array    ordinal of the array in the contract, where the message is about one
24     u64   data     bytes of raw cells after the body (`Piece` only, else 0)
====== ===== ======== ====================================================================

Bodies from rank to receiver

========== == =============================================================================
message    op body
========== == =============================================================================
Hello      1  proof 32s, run 64s (UTF-8, NUL padded), contract digest 32s (zeros: unknown),
              rank u32, size u32, pid u64, session u64, placement epoch u32,
              heartbeat u32 (ms; 0: none promised), info (JSON text to the end)
Piece      2  chunk u64, t u64, generation u32 (of the lease of the slot), block u32,
              slot u32 (0xFFFFFFFF: cells follow as data), ndim u32, slot offset u64,
              ndim x (start u64, count u64, step u64) and, in a slot, ndim x stride i64 (bytes)
              The cells of an array by ids are one dimension of bytes besides time: the rows, then
              the position of each in the chunk (u32), ascending
Rows       3  chunk u64, t u64, rows u64 (0: the rank has no row of this ragged chunk, or of this
              step of a chunk by ids)
StepEnd    4  step i64, waited u64 (ns), n u32, zero u32, n x counters (12 u64: array ordinal,
              then produced, skipped, delivered, dropped, lost as blocks, then as bytes,
              then steps put beyond the last of the contract)
Want       5  chunk row u64: the rank waits for credit for it
Dropped    6  chunk u64: the rank dropped its part by policy
Gone       7  chunk u64: asked for again, but no longer in the replay buffer
Slot       8  slot u32, ring u32, size u64, length u32, spare u32; one memfd travels with the
              frame. A ring has ``length`` slots, of which the receiver leaves ``spare`` free
SlotDrop   9  slot u32, zero u32
Bye        10 last step i64, status u32 (0 ok, 1 aborted), n u32, n x counters, reason (UTF-8)
Ping       11 empty (both ways)
Blocks     12 n u32, ndim u32, n x ndim x (offset u64, extent u64): what this rank holds of the
              array, where the hello could not say it yet
Greeting   13 nonce 32s, session u64: the first message of a connection, see `proof`
StepTime   14 step i64, time f64: physical time of a step, in the units of the simulation
========== == =============================================================================

Bodies from receiver to rank

========== == =============================================================================
message    op body
========== == =============================================================================
Welcome    32 last seq u64, ordinal u32, heartbeat u32 (ms), silence u32 (ms), zero u32
ContractIs 33 digest 32s, endpoints length u32, contract length u32, endpoints, contract,
              first step i64, launch u32, flags u32 (1: other launches of the simulation put into
              the same arrays, 2: ranks count their steps from 0 at every launch; bits 8 to 15: how
              many attached runs a rank joins before it puts, for a bounded time)
Credit     34 chunk rows u64: pieces of chunk rows below it are welcome
Resend     35 chunk u64: send your part of it (again)
Ack        36 seq u64: all messages up to it were taken
Release    37 n x (slot u32, generation u32): these leases have ended, see `leases`
Placement  38 epoch u32, n u32, n x (array u32, epoch u32, period u32, length u32,
              length x owner u32), endpoints (to the end)
Feedback   39 step i64, kind u8, ndim u8, name length u16, data length u32, ndim x u64,
              name (UTF-8), data; kind 0 float64, 1 int64, 2 text (UTF-8), 3 JSON
Fault      40 policy u32 (0 continue, 1 abort), zero u32, text (UTF-8)
Stop       41 reason (UTF-8)
ByeAck     42 empty
Refused    43 why (UTF-8); the receiver closes after it
Challenge  44 nonce 32s, proof 32s: the answer to a greeting, see `proof`
Attach     45 the contact of an attached run, in the binary form of `contact`: the rank puts into
              it as well, from its next step on
========== == =============================================================================

Endpoints are written as `contact.pack_endpoints` says.

A *chunk row* is the index of a chunk along time: ``chunk // chunks per row``. New fields are
appended; a reader ignores the bytes after those that it knows.
"""

from __future__ import annotations

from ips_components.wire._from_rank import (
    HELLO_BYTES,
    Blocks,
    Bye,
    Dropped,
    Gone,
    Greeting,
    Hello,
    Piece,
    Ping,
    Rows,
    Slot,
    SlotDrop,
    StepEnd,
    StepTime,
    Want,
)
from ips_components.wire._parts import (
    COUNTERS,
    MAX_NDIM,
    NO_SLOT,
    PROOF_BYTES,
    VERSION,
    Axes,
    Counters,
    Message,
)
from ips_components.wire._to_rank import (
    Ack,
    Attach,
    ByeAck,
    Challenge,
    ContractIs,
    Credit,
    Fault,
    Feedback,
    Owners,
    PlacementIs,
    Refused,
    Release,
    Resend,
    Stop,
    Welcome,
)

__all__ = [
    "BY_OP",
    "COUNTERS",
    "HELLO_BYTES",
    "MAX_NDIM",
    "NO_SLOT",
    "PROOF_BYTES",
    "VERSION",
    "Ack",
    "Attach",
    "Axes",
    "Blocks",
    "Bye",
    "ByeAck",
    "Challenge",
    "ContractIs",
    "Counters",
    "Credit",
    "Dropped",
    "Fault",
    "Feedback",
    "Gone",
    "Greeting",
    "Hello",
    "Message",
    "Owners",
    "Piece",
    "Ping",
    "PlacementIs",
    "Refused",
    "Release",
    "Resend",
    "Rows",
    "Slot",
    "SlotDrop",
    "StepEnd",
    "StepTime",
    "Stop",
    "Want",
    "Welcome",
]

BY_OP: dict[int, type[Message]] = {
    cls.OP: cls
    for cls in (
        *(Hello, Piece, Rows, StepEnd, Want, Dropped, Gone, Slot, SlotDrop, Bye, Ping, Blocks),
        *(StepTime, Greeting, Challenge),
        *(Welcome, ContractIs, Credit, Resend, Ack, Release, PlacementIs, Feedback),
        *(Fault, Stop, ByeAck, Refused, Attach),
    )
}
"""Message classes by op code."""
