"""A worker's part in a run: opens the receiver, and translates between it and Dask.

The receiver works in threads and knows no Dask; the coordinator sits behind the worker's
stream to the scheduler, which only the event loop may touch.  This module is the hinge:
every callback of the receiver hops onto the loop, every action of the coordinator goes to
the receiver.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import psutil

from ips_components.external._coordinator import STREAM_OP
from ips_components.external._receiver import Receiver
from ips_components.external._settings import RunSettings
from ips_components.model.contract import Contract
from ips_components.model.keys import chunk_key

logger = logging.getLogger(__name__)

#: Seconds between two reports of memory and credits.
SAMPLE_INTERVAL = 1.0
#: Extension name under which a worker keeps its runs.
EXTENSION = "external-runs"


class RunWorker:
    """Companion of :class:`~._worker_plugin.ExternalDataPlugin` for one run.

    Parameters
    ----------
    settings : mapping
        The :class:`~._settings.RunSettings` of the run, as a dict; it travels pickled from
        the IPS component to every worker.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    async def setup(self, worker: Any, external: Any) -> None:
        runs = worker.extensions.setdefault(EXTENSION, {})
        session = _Session(RunSettings.from_dict(self.settings), worker, external)
        runs[session.run] = session
        worker.stream_handlers[STREAM_OP] = _Dispatcher(runs)
        session.open()

    async def teardown(self, worker: Any) -> None:
        session = worker.extensions.get(EXTENSION, {}).pop(self.settings["run"], None)
        if session is not None:
            await session.close()


class _Dispatcher:
    """Stream handler that finds the session of a message's run."""

    def __init__(self, runs: Mapping[str, _Session]) -> None:
        self.runs = runs

    def __call__(self, run: str, action: str, **arguments: Any) -> None:
        session = self.runs.get(run)
        if session is not None:
            getattr(session, f"on_{action}")(**arguments)
