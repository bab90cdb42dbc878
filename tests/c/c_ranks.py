"""Building the C bridge and driving C ranks from Python, one command at a time."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.wire import contact as contacts

HERE = Path(__file__).parent
LIBRARY = HERE.parents[1] / "ips_components" / "bridge" / "c"
WARNINGS = "-Wall -Wextra -Wconversion -Werror -pedantic"
PYTHON = [sys.executable, str(HERE / "remote_python.py")]
RUN = "c-run"
DEADLINE = 20.0


def compiler():
    return os.environ.get("CC") or shutil.which("cc")


def build(out, cflags="-O2 -g"):
    """Build the library and both drivers into a directory."""
    make = ["make", "-s", "-f", str(LIBRARY / "Makefile"), "c", f"OUT={out}", f"CC={compiler()}"]
    _run([*make, f"WARNINGS={WARNINGS}", f"CFLAGS={cflags}"])
    for name in ("remote", "vectors"):
        flags = ["-std=c11", *WARNINGS.split(), *cflags.split(), f"-I{LIBRARY}"]
        source, library = str(HERE / f"{name}.c"), str(out / "libips_bridge.a")
        _run([compiler(), *flags, source, library, "-o", str(out / name)])
    return out


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode or done.stderr:
        raise RuntimeError(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")


class RankError(Exception):
    """A command of a C rank failed; ``code`` is its `enum ips_bridge_code`."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


USAGE, GEOMETRY, CONTACT, CONTRACT, PROTOCOL, REFUSED, LATE, LOST = range(1, 9)
NOTHING, INCOMPLETE, STOPPED = -1, 12, -2


class Rank:
    """A C program that does what it is told.

    Parameters
    ----------
    command
        How to start it.
    rank, size
        Told to ``open``.
    """

    def __init__(self, command, rank=0, size=1, **environment):
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self.rank, self.size = rank, size
        self._ready = selectors.DefaultSelector()
        self._ready.register(self.process.stdout, selectors.EVENT_READ)
        self._buffer = b""
        self("open", rank, size)

    def tell(self, *words):
        """Give a command and do not wait for it."""
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self.process.stdin.flush()

    def answer(self, timeout=DEADLINE):
        """Return the answer to the oldest command, or raise its error."""
        while b"\n" not in self._buffer:
            if not self._ready.select(timeout):
                raise TimeoutError(f"rank {self.rank} did not answer within {timeout} s")
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                status = self.process.wait(timeout=DEADLINE)
                errors = self.process.stderr.read().decode()
                raise RuntimeError(f"rank {self.rank} ended with status {status}: {errors}")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        # Texts of a receiver that talks nonsense are passed on as they came.
        verdict, _, text = line.decode(errors="replace").partition(" ")
        if verdict == "ok":
            return text
        code, _, text = text.partition(" ")
        raise RankError(int(code), text)

    def __call__(self, *words, timeout=DEADLINE):
        """Give a command and return its answer."""
        self.tell(*words)
        return self.answer(timeout)

    def account(self, name):
        """Return blocks and bytes, each produced, skipped, delivered, dropped, lost."""
        numbers = [int(n) for n in self("statistics", name).split()]
        return numbers[:5], numbers[5:]

    def offer(self, spec, offset, shape, halo=None, *, declare=True):
        """Describe an array and this rank's block of it."""
        ndim = len(spec.shape)
        self("array", spec.name, spec.itemsize, ndim, *spec.shape)
        if declare:
            self("declare", spec.name, spec.dtype, ndim, *spec.shape)
            axis = spec.steps
            self("steps", spec.name, axis.start, axis.every, axis.count or -1)
        if not spec.ragged:
            self("block", spec.name, spec.dtype, *offset, *shape, *(halo or (0,) * ndim))

    def end(self):
        """Let the program end by itself; its exit status and what it wrote to stderr."""
        self.process.stdin.close()
        errors = self.process.stderr.read().decode()
        return self.process.wait(timeout=DEADLINE), errors

    def forget(self):
        """Kill it if it runs, and free what belongs to it here."""
        self.process.kill()
        self.process.wait(timeout=DEADLINE)
        self._ready.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(BrokenPipeError):
                stream.close()


def cells(spec, index, step):
    """The pattern that `remote.c` puts: bytes of global index and step, seen as cells."""
    k = np.arange(spec.itemsize, dtype=np.int64)
    raw = (np.asarray(index, np.int64)[..., None] * 7 + step * 13 + k * 31).astype(np.uint8)
    return raw


def expected(array):
    """The whole index space of a contract's array as raw bytes, cells beyond the wanted zero."""
    spec, cover = array.spec, array.cover
    index = np.arange(int(np.prod(spec.shape))).reshape(spec.shape)
    axis = spec.steps
    times = [axis.start + axis.every * t for t in range(axis.count)]
    whole = np.stack([cells(spec, index, step) for step in times])
    wanted = np.zeros(whole.shape[:-1], bool)
    for part in array.wanted:
        wanted[part.to_slices()] = True
    whole[~wanted] = 0
    return whole[cover.to_slices()]


def delivered(array, chunks, ordinal=0):
    """What arrived of an array, as raw bytes of its cover."""
    whole = np.zeros((*array.cover.count, array.spec.itemsize), np.uint8)
    for (number, chunk), value in chunks.items():
        if number == ordinal:
            where = array.chunk_selection(chunk).within(array.cover).to_slices()
            raw = np.ascontiguousarray(value).view(np.uint8)
            whole[where] = raw.reshape(*value.shape, array.spec.itemsize)
    return whole


def spec_of(name="t", dtype="<f8", shape=(8, 12), count=6, **options):
    axis = StepAxis(options.pop("start", 0), options.pop("every", 1), count)
    return ArraySpec(name, dtype, shape, axis, **options)


def agree(*specs, selections=None, receivers=1, **options):
    return Contract(
        RUN,
        tuple(
            ArrayContract.agree(spec, selections, run=RUN, receivers=range(receivers), **options)
            for spec in specs
        ),
    )


@contextmanager
def coupling(directory, sinks, contract=None, *, deadlines=None, options=None, first=0, **receiver):
    """Receivers, one per sink, numbered from ``first`` on, and their contact file."""
    token = contacts.new_token()
    budget = receiver.pop("budget", 64 << 20)
    started = [
        Receiver(sink, run=RUN, token=token, budget=budget, ordinal=i, **receiver)
        for i, sink in enumerate(sinks, first)
    ]
    try:
        endpoints = tuple(one.endpoint for one in started)
        if contract is not None:
            for one in started:
                one.set_contract(contract, endpoints)
        limits = {
            "connect": 5.0,
            "contract": 10.0,
            "step": 15.0,
            "drain": 10.0,
            **(deadlines or {}),
        }
        path = Path(directory) / "contact.json"
        contacts.write(path, contacts.Contact(RUN, token, endpoints, limits, options or {}))
        yield path, started
    finally:
        for one in started:
            one.close()


def join_all(ranks, contact, directory):
    """Rank 0 asks for the contract, all join with its blob."""
    blob = Path(directory) / "blob"
    ranks[0]("request", contact, blob)
    for rank in ranks:
        rank.tell("join", blob)
    for rank in ranks:
        rank.answer()
