"""Fixtures for every test: nothing that a test starts may be left behind."""

import fcntl
import gc
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shared_memory import mapped, owned, waste

_MARK = "IPS_COMPONENTS_TEST"
_DEFAULT = "not slurm"  # how the marker expression of the default tests begins, see setup.cfg
_PATIENCE = 10.0


def pytest_collection_finish() -> None:
    """Leave what is imported out of garbage collections.

    Many fixtures look for leaks after one, each of which would go through 400,000 objects.
    """
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run a longer suite one test at a time: each of its tests takes the whole machine.

    Tests of the default suite wait for half of their time, for deadlines and for what other
    processes do: two of them to a core keep it busy.
    """
    if not str(config.option.markexpr).startswith(_DEFAULT):
        return 0
    return 2 * len(os.sched_getaffinity(0))  # and never more than --maxprocesses


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make what is in a directory once for all workers of pytest-xdist: ``once(name, make)``."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        place, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)  # of a worker that failed
                place.mkdir()
                make(place)
                done.touch()
        return place

    return make_once


def _marked(mark: str) -> dict[int, str]:
    """Living processes that were started with the mark in their environment, and what they are."""
    wanted = f"{_MARK}={mark}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if wanted in environment and state not in "ZX":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = command[:200]
        except OSError:
            continue
    return found


def _files_below(directory: Path) -> list[str]:
    """What is in a directory, from which a process may be removing files meanwhile."""
    return sorted(
        str(Path(folder, name).relative_to(directory))
        for folder, folders, files in os.walk(directory)
        for name in (*folders, *files)
    )


class _Onlooker:
    """Notes which shared memory the processes of a test use, while it runs."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.before = owned()
        self.segments: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            self.segments |= mapped(_marked(self.mark))

    def left(self) -> list[str]:
        """What they have used that is still there, and what is new and of no use."""
        used = {segment for segment in self.segments if Path(segment).exists()}
        return sorted(used | waste(self.before))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Fail a test after which processes, sockets, shared memory or temporary files are left.

    Yields the directory for temporary files, which must be empty in the end.
    """
    mark = uuid.uuid4().hex
    # Paths of Unix sockets are short, those of pytest are not.
    temporary = Path("/tmp") / f"ipsc-{mark[:8]}"
    temporary.mkdir()
    monkeypatch.setenv(_MARK, mark)
    monkeypatch.setenv("TMPDIR", str(temporary))
    onlooker = _Onlooker(mark)
    yield temporary
    onlooker.stop()
    deadline = time.monotonic() + _PATIENCE
    while True:
        processes = _marked(mark)
        files = _files_below(temporary)
        shared = onlooker.left()
        if not (processes or files or shared) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    for path in sorted(temporary.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    temporary.rmdir()
    left = [f"process {pid}: {command}" for pid, command in processes.items()]
    left += [f"file {name}" for name in files] + [f"shared memory {name}" for name in shared]
    assert not left, "left behind:\n" + "\n".join(left)
