"""Preload of Dask workers: all but the first one take half a minute to start."""

import os
import time
from pathlib import Path


def dask_setup(worker):
    """Called in the worker's process before it speaks to the scheduler."""
    try:
        os.close(os.open(Path(os.environ["FIRST_WORKER"]), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        time.sleep(30)
