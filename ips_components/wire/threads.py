"""Threads that never push a computing thread off its core."""

from __future__ import annotations

import contextlib
import os


def be_patient() -> None:
    """Let the calling thread wait for a free core instead of interrupting a computation.

    A message wakes the thread that is to receive it. Where all cores compute, the kernel would
    stop the sender in the middle of its `put` to run that thread at once; threads of the batch
    class wait for the sender's time slice, or for another core.
    """
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or forbidden: as before then
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
