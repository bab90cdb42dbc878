"""The C bridge, built once; sinks that remember; nothing may be left when a test ends."""

import gc
import shutil
import threading
from pathlib import Path

import pytest
from c_ranks import DEADLINE, PYTHON, Rank, build, compiler
from open_here import descriptors, threads

from ips_components.deadlines import Deadline


@pytest.fixture(scope="session")
def built(once):
    """Directory of the library and the drivers."""
    if not (compiler() and shutil.which("make")):
        pytest.skip("needs make and a C compiler")
    return once("c_bridge", build)


@pytest.fixture
def command(built):
    """How a C rank is started."""
    return [str(built / "remote")]


@pytest.fixture(params=["c", "python"])
def language(request):
    """The bridge of the ranks that `either` starts."""
    return request.param


@pytest.fixture(params=["shm", "tcp"])
def lane(request):
    """How the ranks that `either` starts reach the receivers."""
    return request.param


@pytest.fixture
def either(language, command, lane):
    """Start ranks of one of the bridges; those that still run are killed at the end."""
    started = []

    def start(rank=0, size=1, **environment):
        how = command if language == "c" else PYTHON
        environment.setdefault("IPS_COMPONENTS_LANE", lane)
        started.append(Rank(how, rank, size, **environment))
        return started[-1]

    yield start
    for one in started:
        one.forget()


@pytest.fixture
def start(command):
    """Start C ranks; those that still run are killed at the end."""
    started = []

    def start(rank=0, size=1, **environment):
        started.append(Rank(command, rank, size, **environment))
        return started[-1]

    yield start
    for one in started:
        one.forget()


class Sink:
    """Keeps all that a receiver reports; tests wait on it with a deadline."""

    def __init__(self, keep=True):
        self.changed = threading.Condition()
        self.keep = keep
        self.hellos, self.arrays, self.missed, self.steps = [], [], [], []
        self.chunks, self.counts, self.byes, self.losses = {}, {}, {}, {}
        self.faults, self.told, self.times = [], [], []

    def _note(self, change):
        with self.changed:
            change()
            self.changed.notify_all()

    def hello(self, info):
        self._note(lambda: self.hellos.append(info))

    def described(self, arrays):
        self._note(lambda: self.arrays.append(arrays))

    def chunk(self, array, chunk, value, nbytes):
        key = (array, chunk)

        def change():
            self.counts[key] = self.counts.get(key, 0) + 1
            self.chunks[key] = value if self.keep else None

        self._note(change)

    def missing(self, array, chunk, rank, why):
        self._note(lambda: self.missed.append((array, chunk, rank, why)))

    def blocks(self, rank, array, blocks):
        self._note(lambda: self.told.append((rank, array, blocks)))

    def step_time(self, rank, step, time):
        self._note(lambda: self.times.append((rank, step, time)))

    def step_end(self, rank, info):
        self._note(lambda: self.steps.append((rank, info)))

    def bye(self, rank, info):
        self._note(lambda: self.byes.__setitem__(rank, info))

    def lost(self, rank, why):
        self._note(lambda: self.losses.__setitem__(rank, why))

    def fault(self, text):
        self._note(lambda: self.faults.append(text))

    def wait(self, done, timeout=DEADLINE):
        """Wait until something was reported."""
        with self.changed:
            if not self.changed.wait_for(done, timeout):
                raise TimeoutError(f"{self.counts}, {self.byes}, {self.losses}, {self.faults}")


@pytest.fixture
def sinks():
    """As many sinks as one likes."""

    def make(n=1, keep=True):
        return [Sink(keep) for _ in range(n)]

    return make


def _left():
    shared = {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("ips")}
    return descriptors() | threads("receiver") | shared


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test ends without sockets, shared memory or threads left over."""
    before = _left()
    yield
    deadline = Deadline(10)
    while more := _left() - before:
        gc.collect()
        assert not deadline.expired, f"left over: {more}"
        threading.Event().wait(0.02)
