"""An MPI example coupled to receivers in this process: what it delivers, without any Dask."""

import os
import queue
import subprocess
from contextlib import ExitStack

import numpy as np
from heat2d_runs import mpiexec

from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.wire import contact


class Notes:
    """A sink that keeps everything it is told."""

    def __init__(self):
        self.offers, self.byes, self.troubles = queue.Queue(), queue.Queue(), []
        self.chunks = {}

    def hello(self, info):
        pass

    def described(self, arrays):
        self.offers.put(arrays)

    def chunk(self, array, chunk, value, nbytes):
        self.chunks[array, chunk] = value.copy()

    def step_end(self, rank, info):
        pass

    def blocks(self, rank, array, blocks):
        pass

    def bye(self, rank, info):
        self.byes.put((rank, info))

    def missing(self, array, chunk, rank, why):
        self.troubles.append(f"array {array}, chunk {chunk}, rank {rank}: {why}")

    def lost(self, rank, why):
        self.troubles.append(f"rank {rank}: {why}")

    def fault(self, text):
        self.troubles.append(text)


def couple(
    directory, nproc, program, *options, n_receivers=2, select=lambda spec: None, at_goodbye=None
):
    """Run a program to its end and return what arrived.

    Parameters
    ----------
    at_goodbye : callable, optional
        Called with the contract, the receivers and the chunks that arrived when all ranks have
        said goodbye; they may leave when it returns.

    Returns
    -------
    contract : Contract
        Of what the program offered, with the selections of ``select(spec)``.
    chunks : dict of (int, int) to ndarray
        By ordinal of the array and number of the chunk.
    byes : dict of int to ByeInfo
        By rank; of the first receiver that got one.
    """
    run, token, path = "test", contact.new_token(), directory / "contact.json"
    notes = Notes()
    with ExitStack() as stack:
        receivers = [
            stack.enter_context(
                Receiver(
                    notes,
                    run=run,
                    token=token,
                    budget=1 << 26,
                    ordinal=ordinal,
                    hold_byes=at_goodbye is not None,
                )
            )
            for ordinal in range(n_receivers)
        ]
        endpoints = tuple(receiver.endpoint for receiver in receivers)
        keep = {"replay_steps": 4}
        contact.write(path, contact.Contact(run, token, endpoints, options=keep))
        process = subprocess.Popen(
            [*mpiexec(nproc), *program, *map(str, options)],
            env={**os.environ, contact.ENVIRONMENT: str(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.callback(process.kill)
        contract = _agree(run, notes.offers.get(timeout=30), n_receivers, select)
        for receiver in receivers:
            receiver.set_contract(contract, endpoints)
        byes = {}
        if at_goodbye is not None:
            _collect(notes, byes, nproc, 60)
            at_goodbye(contract, receivers, notes.chunks)
            for receiver in receivers:
                receiver.release_ranks()
        output, _ = process.communicate(timeout=60)
        if process.returncode != 0 or notes.troubles:
            raise RuntimeError(f"exit status {process.returncode}, {notes.troubles}\n{output}")
        _collect(notes, byes, nproc, 10)
    return contract, notes.chunks, byes


def _collect(notes, byes, nproc, timeout):
    while len(byes) < nproc:
        rank, info = notes.byes.get(timeout=timeout)
        byes.setdefault(rank, info)


def _agree(run, offers, n_receivers, select):
    arrays = []
    for offer in offers:
        steps = StepAxis(**offer["steps"])
        spec = ArraySpec(**{**offer, "steps": steps, "shape": tuple(offer["shape"])})
        arrays.append(
            ArrayContract.agree(spec, select(spec), run=run, receivers=range(n_receivers))
        )
    return Contract(run, tuple(arrays))


def assembled(array, chunks, ordinal=0):
    """The whole index space of an array from its chunks; not a number where nothing came."""
    field = np.full(array.layout.shape, np.nan)
    for (whose, chunk), value in chunks.items():
        if whose == ordinal:
            dims = array.chunk_selection(chunk).dims
            field[tuple(slice(d.start, d.stop, d.step) for d in dims)] = value
    return field
