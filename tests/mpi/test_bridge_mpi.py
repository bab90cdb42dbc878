"""Real MPI ranks against real receivers."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from heat2d_runs import mpiexec

from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.wire import contact as contacts

MPIEXEC = Path(sys.executable).with_name("mpiexec")
pytestmark = pytest.mark.skipif(
    not MPIEXEC.exists() and shutil.which("mpiexec") is None, reason="needs mpiexec"
)
RUN, TOKEN, N = "mpi-run", "7b" * 32, 32


class Sink:
    def __init__(self, keep=True):
        self.keep = keep
        self.changed = threading.Condition()
        self.chunks, self.byes, self.ranks, self.described_ = {}, {}, set(), []

    def hello(self, info):
        self.ranks.add(info.rank)

    def described(self, arrays):
        self.described_.append(arrays)

    def chunk(self, array, chunk, value, nbytes):
        with self.changed:
            self.chunks[chunk] = value if self.keep else float(value[0, 0, 0])
            self.changed.notify_all()

    def bye(self, rank, info):
        self.byes[rank] = info

    def missing(self, *args):
        raise RuntimeError(args)

    def step_end(self, rank, info):
        pass

    def lost(self, rank, why):
        raise RuntimeError((rank, why))

    def fault(self, text):
        raise RuntimeError(text)


def ranks(tmp_path, mode, steps, contact, n=N):
    environment = {**os.environ, "IPS_COMPONENTS_CONTACT": str(contact)}
    environment["IPS_COMPONENTS_DEADLINE"] = "0.3" if mode == "nofile" else "20"
    script = Path(__file__).with_name("_bridge_ranks.py")
    return subprocess.run(
        [*mpiexec(4), sys.executable, str(script), mode, str(steps), str(n)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("lanes", [("tcp",), ("shm", "tcp")], ids=lambda lanes: lanes[0])
@pytest.mark.parametrize("stop", [False, True], ids=["to the end", "stopped"])
def test_ranks_put_and_receive(tmp_path, lanes, stop):
    steps = 4000 if stop else 12
    spec = ArraySpec("t", "f8", (N, N), StepAxis(count=steps))
    array = ArrayContract.agree(spec, run=RUN, receivers=(0, 1))
    sinks = [Sink(), Sink()]
    receivers = [
        Receiver(sink, run=RUN, token=TOKEN, budget=64 << 20, ordinal=i)
        for i, sink in enumerate(sinks)
    ]
    try:
        endpoints = tuple(receiver.endpoint for receiver in receivers)
        for receiver in receivers:
            receiver.set_contract(Contract(RUN, (array,)), endpoints)
            receiver.feedback("gain", 0.5, 3)
        contacts.write(
            tmp_path / "contact",
            contacts.Contact(RUN, TOKEN, endpoints, options={"lanes": lanes}),
        )
        if stop:

            def when_ten():
                with sinks[0].changed:
                    sinks[0].changed.wait_for(lambda: len(sinks[0].chunks) >= 10, 60)
                for receiver in receivers:
                    receiver.stop("converged")

            waiter = threading.Thread(target=when_ten)
            waiter.start()
        done = ranks(tmp_path, "run", steps, tmp_path / "contact")
        if stop:
            waiter.join(60)
        assert done.returncode == 0, done.stderr
        assert sinks[0].ranks | sinks[1].ranks == {0, 1, 2, 3}
        byes = {**sinks[0].byes, **sinks[1].byes}
        assert {bye.status for bye in byes.values()} == {"ok"}
        assert all(bye.counters[0].closed for bye in byes.values())
        last = {bye.last_step for bye in byes.values()}
        assert len(last) == 1
        got = {**sinks[0].chunks, **sinks[1].chunks}
        assert len(got) == 2 * (last.pop() + 1) <= 2 * steps
        for chunk, value in got.items():
            t, half = divmod(chunk, 2)
            expected = np.arange(N * N, dtype="f8").reshape(N, N) + 1000 * t
            assert np.array_equal(value[0], expected[half * N // 2 : (half + 1) * N // 2])
    finally:
        for receiver in receivers:
            receiver.close()


def test_no_rank_hangs_when_rank_0_finds_no_contact_file(tmp_path):
    done = ranks(tmp_path, "nofile", 1, tmp_path / "none")
    assert done.returncode == 7, (done.returncode, done.stderr)


def test_the_blocks_of_a_rank_are_within_slot_bytes(tmp_path):
    """Two arrays of 2 MiB per rank and step: three slots each, where five would be taken."""
    n, steps, limit = 1024, 12, 12 << 20
    arrays = [
        ArrayContract.agree(
            ArraySpec(name, "f8", (n, n), StepAxis(count=steps)), run=RUN, receivers=(0,)
        )
        for name in "tu"
    ]
    sink = Sink(keep=False)
    receiver = Receiver(sink, run=RUN, token=TOKEN, budget=64 << 20, ordinal=0)
    try:
        receiver.set_contract(Contract(RUN, tuple(arrays)), (receiver.endpoint,))
        options = {"replay_steps": 2, "slot_bytes": limit}
        contact = contacts.Contact(RUN, TOKEN, (receiver.endpoint,), options=options)
        contacts.write(tmp_path / "contact", contact)
        done = ranks(tmp_path, "memory", steps, tmp_path / "contact", n)
        assert done.returncode == 0, done.stderr
        assert {bye.status for bye in sink.byes.values()} == {"ok"}
        assert done.stdout.split() == 4 * [str(limit)]
        assert len(sink.chunks) == steps
    finally:
        receiver.close()
