"""The Python counterpart of `remote.c`: a rank that does what its standard input says.

It takes the same commands and gives the same answers, so that one suite drives both bridges.
"""

import pickle
import sys
import zlib
from math import prod
from pathlib import Path

import numpy as np

from ips_components import errors
from ips_components.bridge import Array, Bridge, Rows
from ips_components.model.spec import StepAxis

CODES = [
    (errors.RunStopped, -2),
    (errors.AnalyticsLost, 8),
    (errors.DeadlineExceeded, 7),
    (errors.ContactError, 3),
    (errors.ContractError, 4),
    (errors.GeometryError, 2),
    (errors.ProtocolError, 5),
    (errors.IPSComponentsError, 1),
]


class Files:
    """A communicator whose broadcast of the opening lies in a file."""

    def __init__(self, rank, size, path):
        self.rank, self.size, self.path = rank, size, path

    def bcast(self, obj, root=0):
        """Return the root's object: by the file until all are open, then each its own."""
        if self.path is None:
            return obj
        path = Path(self.path)
        if self.rank == 0:
            path.write_bytes(pickle.dumps(obj))
            return obj
        return pickle.loads(path.read_bytes())


class Known:
    """What the program knows of an array."""

    def __init__(self, itemsize, shape):
        self.itemsize, self.shape = itemsize, shape
        self.dtype = None
        self.offset = self.count = self.halo = self.shared = self.ids = None
        self.levels, self.refinement = 0, 2

    def sides(self):
        """Ghost cells below and above, per dimension."""
        return self.halo or ((0, 0),) * len(self.shape)


def pattern(known, offset, count, step):
    """Raw bytes of a block without halo: of global index and step."""
    index = np.zeros((), np.int64)
    for n, first, size in zip(known.shape, offset, count, strict=True):
        index = index[..., None] * n + np.arange(first, first + size)
    k = np.arange(known.itemsize, dtype=np.int64)
    return (index[..., None] * 7 + step * 13 + k * 31).astype(np.uint8)


class Rank:
    """The rank and its bridge."""

    def __init__(self):
        self.known, self.described, self.steps, self.boxes = {}, {}, {}, {}
        self.open_blocks = {}
        self.bridge = self.comm = None

    # -- opening -------------------------------------------------------------------------------

    def open(self, rank, size):
        self.rank, self.size = int(rank), int(size)

    def declare(self, name, dtype, ndim, *shape):
        self.described[name] = (dtype, tuple(map(int, shape[: int(ndim)])))

    def do_steps(self, name, first, every, count):
        self.steps[name] = (int(first), int(every), int(count))

    def array(self, name, itemsize, ndim, *shape):
        known = self.known[name] = Known(int(itemsize), tuple(map(int, shape[: int(ndim)])))
        if not known.shape:
            known.offset = known.count = ()

    def block(self, name, dtype, *numbers):
        known = self.known[name]
        n = len(known.shape)
        offset, count, halo = (tuple(map(int, numbers[i * n : i * n + n])) for i in range(3))
        known.dtype, known.offset, known.count = dtype, offset, count
        if all(low == high for low, high in known.sides()):
            known.halo = tuple((h, h) for h in halo)
        self.boxes.setdefault(name, []).append((offset, count))

    def halo(self, name, *numbers):
        self.known[name].halo = tuple((int(h), int(h)) for h in numbers)

    def sides(self, name, *numbers):
        n = len(numbers) // 2
        low, high = numbers[:n], numbers[n:]
        self.known[name].halo = tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))

    def margins(self, name, *numbers):
        self.sides(name, *numbers)

    def shared(self, name, *owners):
        self.known[name].shared = tuple(None if owner == "none" else owner for owner in owners)

    def arrays(self):
        found = []
        for name, (dtype, shape) in self.described.items():
            first, every, count = self.steps.get(name, (0, 1, -1))
            known = self.known.get(name)
            ragged = bool(shape) and shape[0] == -1
            found.append(
                Array(
                    name,
                    shape,
                    dtype,
                    blocks=None if ragged else self.boxes.get(name),
                    halo=known.halo or 0 if known is not None else 0,
                    steps=StepAxis(first, every, count if count > 0 else None),
                    ragged=ragged,
                    shared=known.shared if known is not None else None,
                    ids=known.ids if known is not None else None,
                    levels=known.levels if known is not None else 0,
                    refinement=known.refinement if known is not None else 2,
                )
            )
        return found or None

    def request(self, contact, blob):
        self.start(blob, contact)

    def join(self, blob):
        if self.rank:
            self.start(blob, None)

    def start(self, blob, contact):
        self.comm = Files(self.rank, self.size, blob)
        self.bridge = Bridge(self.comm, contact, self.arrays())
        self.comm.path = None

    # -- putting -------------------------------------------------------------------------------

    def cells(self, name, step, offset, count, order="C"):
        """Return a block with halo (0xEE) in some order of memory."""
        known = self.known[name]
        halo = known.sides()
        raw = np.full(
            (*(n + a + b for n, (a, b) in zip(count, halo, strict=True)), known.itemsize),
            0xEE,
            np.uint8,
        )
        inner = tuple(slice(a, a + n) for (a, _), n in zip(halo, count, strict=True))
        raw[inner] = pattern(known, offset, count, step)
        dtype = np.dtype(self.bridge_dtype(name))
        block = raw.reshape(-1).view(dtype).reshape(raw.shape[:-1])
        if order == "F":
            return np.asfortranarray(block)
        if order == "R":
            turned = (slice(None, None, -1),) * block.ndim
            return np.ascontiguousarray(block[turned])[turned]
        return block

    def bridge_dtype(self, name):
        if name in self.described:
            return self.described[name][0]
        agreed = self.bridge._arrays.get(name)  # of an array that the config describes
        if self.known[name].dtype is None and agreed is not None and agreed.dtype is not None:
            return agreed.dtype
        return self.known[name].dtype or f"V{self.known[name].itemsize}"

    def put(self, name, step, order="C"):
        known = self.known[name]
        block = self.cells(name, int(step), known.offset, known.count, order)
        self.bridge.put(name, int(step), block)
        if block.ndim:  # what is put may be re-used at once
            block[...] = np.full(block.itemsize, 0xDD, np.uint8).view(block.dtype)[0]

    def puts(self, name, first, n, order):
        known, steps = self.known[name], range(int(first), int(first) + int(n))
        blocks = [self.cells(name, step, known.offset, known.count, order) for step in steps]
        for step, block in zip(steps, blocks, strict=True):
            self.bridge.put(name, step, block)
            block.fill(-1.0)  # what is put may be re-used at once

    def put_block(self, name, step, order, *numbers):
        n = len(self.known[name].shape)
        offset, count = (tuple(map(int, numbers[i * n : i * n + n])) for i in range(2))
        self.bridge.put(
            name, int(step), self.cells(name, int(step), offset, count, order), offset=offset
        )

    def rows(self, name, step, rows):
        self.bridge.put(name, int(step), self.row_cells(name, int(step), int(rows)))

    def row_cells(self, name, step, rows):
        known = self.known[name]
        columns = prod(known.shape[1:])
        index = self.rank * 1000003 + np.arange(rows * columns)
        k = np.arange(known.itemsize)
        raw = (index[:, None] * 7 + step * 13 + k * 31).astype(np.uint8)
        return raw.reshape(-1).view(self.bridge_dtype(name)).reshape(rows, *known.shape[1:])

    def ids(self, name, owner, n, *ids):
        known = self.known[name]
        known.shared = None if owner == "none" else owner
        known.ids = np.array(ids, np.int64) if int(n) >= 0 else True

    def put_ids(self, name, step, shift, n, *ids):
        known = self.known[name]
        given = None if int(n) < 0 else np.array(ids, np.int64)
        of = known.ids if given is None else given
        of = np.zeros(0, np.int64) if of is True else of
        columns = prod(known.shape[1:])
        index = of[:, None] * columns + np.arange(columns)
        k = np.arange(known.itemsize)
        raw = (index[..., None] * 7 + (int(step) + int(shift)) * 13 + k * 31).astype(np.uint8)
        cells = raw.reshape(-1).view(self.bridge_dtype(name))
        self.bridge.put(name, int(step), cells.reshape(len(of), *known.shape[1:]), ids=given)

    def levels(self, name, levels, refinement):
        known = self.known[name]
        known.levels, known.refinement = int(levels), int(refinement)

    def put_blocks(self, name, step, n, *numbers):
        known = self.known[name]
        table = np.array(numbers, np.int64).reshape(int(n), len(known.shape))
        first = table[:, 0]
        for place in table.T[1:]:
            first = first * 131 + place
        k = np.arange(known.itemsize)
        index = first[:, None, None] + np.arange(prod(known.shape[1:]))[:, None]
        raw = (index * 7 + int(step) * 13 + k * 31).astype(np.uint8)
        cells = raw.reshape(-1).view(self.bridge_dtype(name)).reshape(int(n), *known.shape[1:])
        self.bridge.put(name, int(step), cells, levels=table[:, 0], places=table[:, 1:])

    def put_parts(self, name, step, n, *index):
        known = self.known[name]
        index = np.array(index, np.int64)
        rows = index.max(initial=0) + 1
        cells = self.row_cells(name, int(step), int(rows))
        gaps = np.zeros((2 * rows, *known.shape[1:]), cells.dtype)
        gaps[::2] = cells
        half = int(n) // 2
        parts = [Rows(gaps[::2], index[:half]), Rows(cells, index[half:])]
        self.bridge.put(name, int(step), parts)

    def enter(self, key, name, step, offset, count):
        block = self.bridge.block(name, int(step), offset=offset)
        self.open_blocks[key] = (block, block.__enter__(), name, int(step), count)

    def leave(self, key, kept=True):
        block, *_ = self.open_blocks.pop(key)
        if kept:
            block.__exit__(None, None, None)
        else:
            error = RuntimeError("discarded")
            block.__exit__(type(error), error, None)

    def fill_open(self, key, step):
        _, out, name, _, (offset, count) = self.open_blocks[key]
        out[...] = self.cells(name, step, offset, count)

    def acquire(self, name, step):
        known = self.known[name]
        self.enter(name, name, step, None, (known.offset, known.count))

    def fill(self, name, step):
        self.fill_open(name, int(step))

    def peek(self, name):
        return f"ok {zlib.crc32(np.ascontiguousarray(self.open_blocks[name][1]))}"

    def publish(self, name):
        self.leave(name)

    def discard(self, name):
        self.leave(name, kept=False)

    def open_block(self, name, step, slot, *numbers):
        n = len(self.known[name].shape)
        offset, count = (tuple(map(int, numbers[i * n : i * n + n])) for i in range(2))
        self.enter((name, slot), name, step, offset, (offset, count))

    def fill_block(self, name, step, slot):
        self.fill_open((name, slot), int(step))

    def publish_block(self, name, step, slot):
        self.leave((name, slot))

    def discard_block(self, name, step, slot):
        self.leave((name, slot), kept=False)

    def rewind(self, step):
        self.bridge.rewind(int(step))

    # -- the rest ------------------------------------------------------------------------------

    def progress(self):
        pass

    def wait(self, timeout):
        if not self.bridge.wait(float(timeout)):
            raise errors.BridgeError("receivers have not taken all data")

    def step_end(self, step):
        self.bridge.step_end(int(step))

    def first_step(self, expected):
        if self.bridge.first_step != int(expected):
            raise errors.BridgeError(f"the first step is {self.bridge.first_step}")

    def step_time(self, step, time):
        self.bridge.step_time(int(step), float(time))

    def close(self, aborted, *reason):
        self.bridge.close("aborted" if int(aborted) else "ok", " ".join(reason))

    def free(self):
        self.bridge = None

    def receive(self, name, step, timeout):
        nothing = object()
        if float(timeout) == 0:
            value = self.bridge.receive(name, int(step), default=nothing)
            if value is nothing:
                return "error -1 nothing"
        else:
            value = self.bridge.receive(name, int(step), timeout=float(timeout))
        value = np.asarray(value)
        return "ok " + " ".join(f"{number:.17g}" for number in value.ravel())

    def stop(self):
        return f"ok {int(self.bridge.should_stop())}"

    def lost(self):
        return f"ok {self.bridge.statistics().lost or ''}".rstrip("\n")

    def lanes(self):
        lanes = list(self.bridge.statistics().lanes.values())
        return f"ok {lanes.count('shm')} {lanes.count('tcp')}"

    def waited(self):
        return f"ok {self.bridge.statistics().waited:g}"

    def statistics(self, name):
        account = self.bridge.statistics().arrays[name]
        order = ("produced", "skipped", "delivered", "dropped", "lost")
        numbers = [account[what][one] for what in ("blocks", "bytes") for one in order]
        return "ok " + " ".join(map(str, numbers))


def main():
    """Answer commands until the input ends."""
    rank = Rank()
    for line in sys.stdin:
        command, *words = line.split()
        try:
            answer = getattr(rank, {"steps": "do_steps"}.get(command, command))(*words) or "ok"
        except errors.IPSComponentsError as error:
            code = next(number for kind, number in CODES if isinstance(error, kind))
            answer = f"error {code} {' '.join(str(error).split())}"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
