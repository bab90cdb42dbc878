"""For the end of a worker: a plugin that reports how it closes, and preparations for it.

They travel by value.

The other side, in a container, need not have this package: a class that says it is of ``__main__``,
in a module that cloudpickle takes by value, is sent with its code. It may use nothing but the
standard library and Dask.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
from distributed.diagnostics.plugin import WorkerPlugin


class CloseReporter(WorkerPlugin):  # type: ignore[misc]
    """Reports the progress of a worker's closing in a file below *directory*.

    The file holds a number that grows as the worker gets on, and at last the word *done*.
    """

    name = "ips_components-close-reporter"

    def __init__(self, directory: str, prefix: str, done: str) -> None:
        self.directory, self.prefix, self.done = directory, prefix, done

    def teardown(self, worker: Any) -> None:
        """Start to report; a thread does, since the teardown of a plugin may block the loop."""
        threading.Thread(target=self.report, args=(worker,), daemon=True).start()

    def report(self, worker: Any) -> None:
        """Report until the worker is closed."""
        word = "".join(c if c.isalnum() else "_" for c in str(worker.id))
        path = Path(self.directory, self.prefix + word)
        grown, last, looked, status = 0, None, 0.0, ""
        while status not in ("closed", "failed"):
            if time.monotonic() - looked > 1.0:
                looked = time.monotonic()
                done = work_done()
                if done != last:
                    grown, last = grown + 1, done
                    path.write_text(str(grown))
            time.sleep(0.05)
            status = str(getattr(worker.status, "name", worker.status))
        path.write_text(self.done)


def prepare_prompt_end(dask_worker: Any) -> None:
    """Let the process of a worker that closes by itself end when the worker has closed.

    The process waits two seconds for a thread of its own, which waits for a word of the nanny; and
    the nanny of a worker that its scheduler closes has none to give. Here it gives that word as
    soon as the worker says that it closes. A plugin could do the same, but to register one waits
    for workers that are starting.

    Parameters
    ----------
    dask_worker
        The nanny.
    """
    nanny = dask_worker
    close_gracefully = nanny.handlers["close_gracefully"]

    def prompt_close_gracefully(*args: Any, **keywords: Any) -> Any:
        answer = close_gracefully(*args, **keywords)
        with contextlib.suppress(AttributeError, OSError, ValueError):
            nanny.process.child_stop_q.put({"op": "stop"})
        return answer

    nanny.handlers["close_gracefully"] = prompt_close_gracefully


async def close_client(dask_worker: Any) -> None:
    """Close the client that tasks of a worker used, while there is a scheduler to leave.

    When the scheduler has gone first, the worker's end waits two seconds for it.
    """
    client, dask_worker._client = dask_worker._client, None
    if client is not None:
        await client._close()


CloseReporter.__module__ = "__main__"
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def work_done() -> int:
    """Return a number that grows with what this process and its descendants do.

    The calling thread does not count, nor does what the process reads: Dask reads about its own
    memory all the time.
    """
    mine, total = threading.get_native_id(), 0
    for thread in numbers("/proc/self/task"):
        if thread != mine:
            total += work_of(f"/proc/self/task/{thread}", ("wchar",))
    for pid in descendants():
        total += work_of(f"/proc/{pid}", ("rchar", "wchar"))
    return total


def work_of(place: str, names: tuple[str, ...]) -> int:
    """Return bytes moved, and processor time in units of 0.2 s, of a process or a thread."""
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError):  # it may just have ended
        times = Path(place, "stat").read_text().rpartition(")")[2].split()[11:13]
        total += (int(times[0]) + int(times[1])) // 20
        for line in Path(place, "io").read_text().splitlines():
            name, _, value = line.partition(": ")
            if name in names:
                total += int(value)
    return total


def descendants() -> Iterator[int]:
    """Pids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for pid in numbers("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    front = [os.getpid()]
    while front:
        front = [child for parent in front for child in children.get(parent, [])]
        yield from front


def numbers(directory: str) -> list[int]:
    """Return the entries of a directory that are numbers."""
    return [int(name) for name in os.listdir(directory) if name.isdigit()]  # noqa: PTH208
