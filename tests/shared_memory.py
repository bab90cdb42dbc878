"""What processes leave in /dev/shm: segments of MPI libraries, semaphores of multiprocessing.

Other programs may run on this machine at the same time, so that a mere list before and after would
blame the innocent: what is new is waste when no process maps it.
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SHM = Path("/dev/shm")


def owned() -> set[str]:
    """Paths of all that belongs to this user."""
    return set(_identities())


def mapped(pids: Iterable[int]) -> set[str]:
    """Paths of what these processes map and that is still there."""
    identities = _identities()
    found: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
            found |= {path for path, identity in identities.items() if identity in maps}
    return found


def waste(before: set[str]) -> set[str]:
    """What was not there before and that no process maps."""
    new = owned() - before
    if not new:
        return set()
    return new - mapped(int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())


def waste_that_stays(before: set[str], seconds: float) -> list[str]:
    """The same, for who has so many seconds to tidy up: what was waste all the time."""
    deadline = time.monotonic() + seconds
    left = waste(before)
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left &= waste(before)
    return sorted(left)


def _identities() -> dict[str, str]:
    """Device and inode as in a table of mappings, by path: names of semaphores change there.

    Podman's locks are meant to stay.
    """
    found = {}
    for path in SHM.iterdir():
        with suppress(OSError):
            status = path.stat()
            if status.st_uid == os.getuid() and "libpod" not in path.name:
                device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
                found[str(path)] = f" {device} {status.st_ino} "
    return found
