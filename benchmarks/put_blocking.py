"""How long `put` holds a rank, beside the limits of the machine, in one interleaved run.

For each block size and pace every method puts the same blocks from several processes to one
consumer process; the methods take turns, so that a noisy neighbour disturbs all of them alike.

Methods
-------
copy
    ``np.copyto`` between two warm arrays: the price of one copy.
copies
    The same into four targets by turns, as a ring of slots is: the price of a copy that is kept for
    replay and read by another process, without anything beside it.
in place
    ``with bridge.block(...)``, the time of entering and leaving (the computation is the body).
shm
    ``bridge.put`` over shared memory: one copy.
tcp
    ``bridge.put`` over TCP (loopback), sent by a thread while the rank goes on.
tcp lent
    The same without a replay buffer: when puts follow each other closely, blocks are sent from the
    caller's memory.
C in place, C shm, C tcp, C tcp lent
    The same of a rank in C (`put_blocking.c`; needs make and a C compiler).
wake
    ``socket.send`` of 64 bytes over a Unix socket to a thread that sleeps in ``recv``: what it
    costs to send any message, whatever the size.
least
    What remains of a block in place when there is nothing to find out: Python looks the array up,
    takes the next buffer under a lock, packs the frame of a piece, and sends it. No library in
    Python holds a rank less.
raw
    ``socket.sendall`` over loopback to a consumer that receives into one warm buffer.
raw answered
    The same, but each block waits until the consumer has answered the one before with a byte: the
    limit where a sender must know that a block has arrived before its memory is written again.
mpi
    ``comm.Send`` to a consumer rank that receives into one warm buffer (needs mpiexec). On one
    machine MPI uses shared memory.
mpi tcp
    The same by Open MPI, set to use TCP (needs mpirun.openmpi). MPICH did not end within minutes
    when it was kept from shared memory.

The times are those of all steps of all ranks of all turns.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing as mp
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import ips_components
from benchmarks._cluster import environment
from benchmarks._harness import KIB, MIB, Load, figure, interleave, machine, spread, write
from ips_components.bridge import Array, Bridge
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.receiver.sink import Sink
from ips_components.wire import contact as contacts
from ips_components.wire.framing import SlotFrame

SIZES = (32 * KIB, 2 * MIB, 8 * MIB, 64 * MIB)
PACE = {32 * KIB: 0.010, 2 * MIB: 0.015, 8 * MIB: 0.030, 64 * MIB: 0.150}
C_METHODS = ("C in place", "C shm", "C tcp", "C tcp lent")
METHODS = (
    "copy", "copies", "wake", "least", "in place", "C in place", "shm", "C shm", "tcp", "C tcp",
    "tcp lent", "C tcp lent", "raw", "raw answered", "mpi", "mpi tcp",
)  # fmt: skip

#: Goals: milliseconds (in place at any size; shm at 32 KiB), warm copies (shm from 2 MiB on), parts
#: of the throughput of raw loopback (tcp lent, flat out), times `MPI.Send` (tcp, 8 MiB, paced; the
#: method mpi, which is shared memory here, and mpi tcp, which is the like of it).
GOALS = {"in place ms": 0.02, "shm ms, 32 KiB": 0.03, "shm over copy": 2.0,
         "tcp lent over raw": 0.9, "tcp over mpi": 1.0, "tcp over mpi tcp": 1.0}  # fmt: skip
#: How Open MPI is kept from shared memory; waiting ranks yield, since there are more than cores.
OVER_TCP = {"MPI4PY_MPIABI": "openmpi", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self",
            "OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_MCA_mpi_yield_when_idle": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # fmt: skip
RUN, TOKEN = "benchmark", "be" * 32
SPAWN = mp.get_context("spawn")


class Discard(Sink):
    """A consumer that looks at nothing and releases it at once."""


def steps_of(size: int, paced: bool, repeat: int) -> int:
    """Return the number of timed steps of one turn."""
    return max(6, min(60, (256 * MIB) // size)) * (1 if paced else 2) * max(1, repeat // 3)


def cells_of(size: int) -> np.ndarray:
    return np.random.default_rng(0).random((64, size // 512))


class Timer:
    """Times the calls of one rank, with a pause after each."""

    def __init__(self, pace: float) -> None:
        self.pace, self.times = pace, []
        self.start = time.perf_counter()

    def note(self, seconds: float) -> None:
        self.times.append(seconds)
        if self.pace:
            time.sleep(self.pace)  # the computation of the next step


def rank_of_bridge(file: str, rank: int, ranks: int, size: int, pace: float, n: int,
                   in_place: bool, warm: int, gate: Any, out: Any) -> None:  # fmt: skip
    cells = cells_of(size)
    shape = (64 * ranks, cells.shape[1])
    arrays = [Array("t", shape, "f8", grid=(ranks, 1))]
    with Bridge(contact=file, rank=rank, size=ranks, arrays=arrays) as bridge:
        for step in range(warm):
            bridge.put("t", step, cells)
        bridge.wait()
        gate.wait(60)
        timer = Timer(pace)
        for step in range(warm, warm + n):
            begin = time.perf_counter()
            if in_place:
                block = bridge.block("t", step)
                block.__enter__()
                middle = time.perf_counter()
                entered = middle - begin
                begin = time.perf_counter()
                block.__exit__(None, None, None)
                timer.note(entered + time.perf_counter() - begin)
            else:
                bridge.put("t", step, cells)
                timer.note(time.perf_counter() - begin)
        bridge.wait()
        out.put((timer.times, time.perf_counter() - timer.start))


@cache
def c_program() -> Path | None:
    """Build the rank in C; None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None or shutil.which("make") is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="put_blocking"))
    atexit.register(shutil.rmtree, folder)
    library = Path(ips_components.__file__).parent / "bridge" / "c"
    make = ["make", "-s", "-f", str(library / "Makefile"), "c", f"OUT={folder}", f"CC={compiler}"]
    source, program = Path(__file__).with_suffix(".c"), folder / "put_blocking"
    link = [compiler, "-std=c11", "-O2", f"-I{library}", str(source)]
    for command in (make, [*link, str(folder / "libips_bridge.a"), "-o", str(program)]):
        subprocess.run(command, check=True, timeout=120)
    return program


def c_ranks(file: Path, size: int, pace: float, n: int, ranks: int, in_place: bool) -> list[Any]:
    """Run ranks in C and return what they print."""
    processes: list[subprocess.Popen[str]] = []

    def start_rank(rank: int) -> None:
        numbers = [rank, ranks, size, n, 5, int(pace * 1e9), int(in_place)]
        command = [str(c_program()), str(file), f"{file}.blob", *map(str, numbers)]
        processes.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )

    def hear(process: subprocess.Popen[str], word: str) -> None:
        if (said := process.stdout.readline().strip()) != word:
            raise RuntimeError(f"a rank in C should say {word!r}, got {said!r}")

    try:
        start_rank(0)
        hear(processes[0], "asked")
        for rank in range(1, ranks):
            start_rank(rank)
        for process in processes:
            hear(process, "ready")
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [json.loads(process.stdout.readline()) for process in processes]
        for process in processes:
            if process.wait(60):
                raise RuntimeError(f"a rank in C ended with {process.returncode}")
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return results


def by_bridge(method: str, size: int, pace: float, n: int, ranks: int) -> list[Any]:
    if method in C_METHODS and c_program() is None:
        return []
    lanes = ("tcp",) if "tcp" in method else ("shm",)
    spec = ArraySpec("t", "f8", (64 * ranks, size // 512), StepAxis())
    # One chunk per rank and step: a piece is a chunk, as with one rank per chunk of an analysis.
    array = ArrayContract.agree(spec, run=RUN, chunks=(1, 64, -1))
    receiver = Receiver(
        Discard(), run=RUN, token=TOKEN, budget=max(512 * MIB, 10 * size * ranks), ordinal=0
    )
    with receiver, tempfile.TemporaryDirectory() as folder:
        receiver.set_contract(Contract(RUN, (array,)))
        file = Path(folder) / "contact"
        options = {"lanes": lanes, "replay_steps": 0 if "lent" in method else 1}
        contacts.write(file, contacts.Contact(RUN, TOKEN, (receiver.endpoint,), options=options))
        if method in C_METHODS:
            return c_ranks(file, size, pace, n, ranks, "in place" in method)
        return start(
            rank_of_bridge,
            [(str(file), rank, ranks, size, pace, n, method == "in place", 5)
             for rank in range(ranks)],
        )  # fmt: skip


def start(target: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    gate, out = SPAWN.Barrier(len(arguments)), SPAWN.Queue()
    processes = [SPAWN.Process(target=target, args=(*args, gate, out)) for args in arguments]
    for process in processes:
        process.start()
    results = [out.get(timeout=240) for _ in processes]
    for process in processes:
        process.join(30)
    return results


def rank_of_copy(size: int, pace: float, n: int, targets: int, gate: Any, out: Any) -> None:
    cells = cells_of(size)
    ring = [cells.copy() for _ in range(targets)]
    gate.wait(60)
    timer = Timer(pace)
    for i in range(n):
        target = ring[i % targets]
        begin = time.perf_counter()
        np.copyto(target, cells)
        timer.note(time.perf_counter() - begin)
    out.put((timer.times, time.perf_counter() - timer.start))


def rank_of_raw(port: int, size: int, pace: float, n: int, answered: bool,
                gate: Any, out: Any) -> None:  # fmt: skip
    cells = cells_of(size)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def send() -> None:
            sock.sendall(cells.data.cast("B"))
            if answered:
                sock.recv(1)

        for _ in range(3):
            send()
        gate.wait(60)
        timer = Timer(pace)
        for _ in range(n):
            begin = time.perf_counter()
            send()
            timer.note(time.perf_counter() - begin)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)  # the consumer has taken all
        out.put((timer.times, time.perf_counter() - timer.start))


def by_raw(size: int, pace: float, n: int, ranks: int, answered: bool) -> list[Any]:
    def consume(sock: socket.socket) -> None:
        buffer = bytearray(size)
        with sock:
            while sock.recv_into(buffer, 0, socket.MSG_WAITALL):
                if answered:
                    sock.send(b"!")

    def accept(server: socket.socket) -> None:
        for _ in range(ranks):
            sock, _ = server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=consume, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        port = server.getsockname()[1]
        return start(rank_of_raw, [(port, size, pace, n, answered)] * ranks)


class Least:
    """Has nothing to find out: one array, four buffers, a receiver that takes everything."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.lock, self.seq = sock, threading.Lock(), 0
        frame = SlotFrame(0, ((0, 1, 1), (0, 64, 1), (0, 8, 1)), 0, 0, (0, 64, 8))
        self.arrays = {"t": (frame, [np.zeros((64, 8)) for _ in range(4)])}

    def enter(self, name: str) -> np.ndarray:
        _, buffers = self.arrays[name]
        with self.lock:
            self.seq += 1
        return buffers[self.seq % 4]

    def leave(self, name: str, step: int) -> None:
        frame, _ = self.arrays[name]
        with self.lock:
            self.sock.sendall(frame.pack(self.seq, step, step, 0, self.seq))


def rank_of_wake(name: str, pace: float, n: int, least: bool, gate: Any, out: Any) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(name)
        message, library = bytes(64), Least(sock)
        sock.send(message)
        gate.wait(60)
        timer = Timer(pace)
        for step in range(n):
            begin = time.perf_counter()
            if least:
                library.enter("t")
                library.leave("t", step)
            else:
                sock.send(message)
            timer.note(time.perf_counter() - begin)
        out.put((timer.times, time.perf_counter() - timer.start))


def by_wake(pace: float, n: int, least: bool, ranks: int) -> list[Any]:
    name = f"\0put_blocking-{os.getpid()}-{time.monotonic_ns()}"

    def consume(sock: socket.socket) -> None:
        with sock:
            while sock.recv(1024):
                pass

    def accept(server: socket.socket) -> None:
        for _ in range(ranks):
            sock, _ = server.accept()
            threading.Thread(target=consume, args=(sock,), daemon=True).start()

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(name)
        server.listen(ranks)
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        return start(rank_of_wake, [(name, pace, n, least)] * ranks)


def by_mpi(size: int, pace: float, n: int, ranks: int, tcp: bool) -> list[Any]:
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if tcp:
        command = shutil.which("mpirun.openmpi")
    else:
        command = str(mpiexec) if mpiexec.exists() else shutil.which("mpiexec")
    if command is None:
        return []
    done = subprocess.run(
        [command, "-n", str(ranks + 1), sys.executable, "-m", "benchmarks.put_blocking",
         "--as-mpi-rank", str(size), str(pace), str(n)],
        capture_output=True, text=True, timeout=90, check=True,
        env=environment(**(OVER_TCP if tcp else {})),
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def as_mpi_rank(size: int, pace: float, n: int) -> None:
    """Rank 0 consumes, the others send."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    result = None
    cells = cells_of(size)
    if comm.rank == 0:
        for _ in range((n + 3) * (comm.size - 1)):
            comm.Recv(cells, source=MPI.ANY_SOURCE)
    else:
        for _ in range(3):
            comm.Send(cells, dest=0)
        timer = Timer(pace)
        for _ in range(n):
            begin = time.perf_counter()
            comm.Send(cells, dest=0)
            timer.note(time.perf_counter() - begin)
        result = (timer.times, time.perf_counter() - timer.start)
    results = comm.gather(result)
    if comm.rank == 0:
        print(json.dumps(results[1:]))


def turn(method: str, size: int, pace: float, n: int, ranks: int) -> list[Any]:
    """Let all ranks put ``n`` blocks by one method; return times and whole duration of each."""
    if method in ("copy", "copies"):
        return start(rank_of_copy, [(size, pace, n, 1 if method == "copy" else 4)] * ranks)
    if method in ("wake", "least"):
        return by_wake(pace, n, method == "least", ranks)
    if method.startswith("raw"):
        return by_raw(size, pace, n, ranks, method == "raw answered")
    if method.startswith("mpi"):
        return by_mpi(size, pace, n, ranks, method == "mpi tcp")
    return by_bridge(method, size, pace, n, ranks)


def import_cost() -> dict[str, float]:
    """Return what importing the bridge adds to a process that has NumPy: ms and MB."""
    code = (
        "import resource,time,numpy;r=lambda:resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "m,t=r(),time.process_time()\nimport ips_components.bridge\n"
        "print((time.process_time()-t)*1e3,(r()-m)/1e3)"
    )
    with tempfile.TemporaryDirectory() as cache:
        # One thread: those of a numerical library that start meanwhile are not ours.
        compiled = environment(PYTHONPYCACHEPREFIX=cache)
        compiled.pop("PYTHONDONTWRITEBYTECODE", None)
        runs = [
            subprocess.run(
                [sys.executable, "-c", code],
                env=compiled, capture_output=True, text=True, check=True,
            ).stdout.split()
            for _ in range(6)
        ]  # fmt: skip
    return {"ms": min(float(r[0]) for r in runs[1:]), "MB": min(float(r[1]) for r in runs[1:])}


def run(
    quick: bool = False,
    repeat: int = 5,
    ranks: int = 4,
    sizes: list[int] | None = None,
    methods: tuple[str, ...] = METHODS,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run all turns; write results and a plot."""
    load, options = Load(), {} if folder is None else {"folder": folder}
    rows: list[dict[str, Any]] = []
    sizes = sizes or [size for size in SIZES if not quick or size <= 8 * MIB]
    imported = import_cost()
    for size in sizes:
        for paced in (True, False):
            pace = PACE.get(size, 0.03) if paced else 0.0
            n = steps_of(size, paced, repeat)
            print(f"{size // KIB} KiB, {'paced' if paced else 'flat out'}")
            turns = interleave(
                methods, repeat, lambda name, a=(size, pace, n, ranks): turn(name, *a)
            )
            rows += rows_of(size, paced, n, ranks, turns)
            methods = tuple(name for name in methods if turns[name])
            document = {
                "machine": machine(),
                "load": load.facts(),
                "ranks": ranks,
                "turns of each": repeat,
                "import ips_components.bridge": imported,
                "goals": GOALS,
                "rows": rows,
            }
            write("put_blocking", document, **options)
    figure("put_blocking_held", lambda axes: draw(axes, rows), **options)
    return document


def rows_of(
    size: int, paced: bool, n: int, ranks: int, turns: dict[str, list[Any]]
) -> list[dict[str, Any]]:
    """Make a row for each method that ran; ratios are those of medians of turns side by side."""
    times = {name: [of for each in got for of, _ in each] for name, got in turns.items()}
    copies = [np.median(np.concatenate(each)) for each in _by_turn(turns.get("copy", []))]
    rows = []
    for name, got in turns.items():
        if not times[name]:
            continue
        held = np.concatenate([np.asarray(of) for of in times[name]]) * 1e3
        own = [np.median(np.concatenate(each)) for each in _by_turn(got)]
        rate = statistics.median(n * size / seconds for each in got for _, seconds in each)
        row: dict[str, Any] = {
            "block KiB": size // KIB,
            "phase": "paced" if paced else "flat out",
            "method": name,
            "held ms": spread(held),
            "over a copy": None,
            "GB/s": None,
        }
        if copies and name not in ("copy", "wake", "least"):
            ratios = [a / b for a, b in zip(own, copies, strict=False)]
            row["over a copy"] = float(f"{statistics.median(ratios):.3g}")
        if not paced and name not in ("wake", "least"):
            row["GB/s"] = float(f"{rate * ranks / 1e9:.3g}")
        rows.append(row)
    return rows


def _by_turn(got: list[Any]) -> list[list[Any]]:
    return [[np.asarray(of) for of, _ in each] for each in got if each]


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Median time that a rank is held, against the size of its block."""
    for i, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        for phase, dash in (("paced", "-"), ("flat out", ":")):
            points = [
                (row["block KiB"], row["held ms"]["median"])
                for row in rows
                if row["method"] == name and row["phase"] == phase
            ]
            axes.plot(*zip(*points, strict=True), f"o{dash}", color=f"C{i % 10}", markersize=3,
                      label=name if phase == "paced" else None)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("block, KiB")
    axes.set_ylabel("a rank is held, ms (dotted: flat out)")
    axes.legend(fontsize=7, ncols=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="One MPI rank of the method mpi.")
    parser.add_argument("--as-mpi-rank", nargs=3, required=True)
    size, pace, n = parser.parse_args().as_mpi_rank
    as_mpi_rank(int(size), float(pace), int(n))


if __name__ == "__main__":
    main()
