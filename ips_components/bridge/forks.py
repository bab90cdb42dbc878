"""What a forked process must not keep of the bridges that its parent has open."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something with sockets."""

    def release_in_child(self) -> None:
        """Close this process's copies of the sockets."""


open_objects: weakref.WeakSet[Forked] = weakref.WeakSet()


def _after_fork() -> None:
    # A child that kept the sockets open would hide its parent's death from the receivers.
    for each in list(open_objects):
        each.release_in_child()
    open_objects.clear()


os.register_at_fork(after_in_child=_after_fork)
