"""Every touch of a private name of dask or distributed, in one place.

The rest of the package calls only what is here and the documented interfaces; the gate behind
which external tasks wait is in :mod:`._compat_gate`, and which versions are supported in
:mod:`._compat_versions`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distributed.core import clean_exception
from distributed.protocol import pickle
from distributed.scheduler import ClientState, SchedulerState, TaskState
from distributed.worker import Worker

from ips_components.errors import ExternalTaskError
from ips_components.external._compat_versions import required

if TYPE_CHECKING:
    from distributed import Client, Future, Scheduler
    from distributed.batched import BatchedSend

# -- scheduler: clients of the tasks -------------------------------------------------------


def pseudo_client(scheduler: Scheduler, name: str) -> ClientState:
    """Return the pseudo-client called `name`, made if needed."""
    cs = scheduler.clients.get(name)
    if cs is None:
        scheduler.clients[name] = cs = ClientState(name)
    return cs


def forget_pseudo_client(scheduler: Scheduler, name: str) -> bool:
    """Drop the pseudo-client called `name` if it holds nothing; return whether it is gone."""
    cs = scheduler.clients.get(name)
    if cs is None or not cs.wants_what:
        scheduler.clients.pop(name, None)
        return True
    return False


# -- streams -------------------------------------------------------------------------------


def send_now(stream: BatchedSend | None) -> None:
    """Let a stream, if there is one, send what it holds now instead of after its interval."""
    if stream is not None and stream.buffer and stream.next_deadline is not None:
        stream.next_deadline = None
        stream.waker.set()


# -- scheduler: arrival and failure --------------------------------------------------------


def add_arrival(scheduler: Scheduler) -> Callable[[], None]:
    """Teach this scheduler (the instance, never the class) that a waiting task may arrive.

    Returns the call that undoes it.
    """
    stock = scheduler._TRANSITIONS_TABLE["waiting", "memory"]

    def waiting_memory(
        state: SchedulerState, key: Any, stimulus_id: str, **kwargs: Any
    ) -> tuple[dict, dict, dict]:
        if "external_nbytes" not in kwargs:
            return stock(state, key, stimulus_id, **kwargs)
        ts = state.tasks[key]
        ts.waiting_on = None
        ts.set_nbytes(kwargs["external_nbytes"])
        recommendations: dict = {}
        client_msgs: dict = {}
        state._add_to_memory(
            ts,
            state.workers[kwargs["worker"]],
            recommendations,
            client_msgs,
            type=None,
            typename=kwargs["typename"],
        )
        return recommendations, client_msgs, {}

    scheduler._TRANSITIONS_TABLE = {
        **scheduler._TRANSITIONS_TABLE,
        ("waiting", "memory"): waiting_memory,
    }

    def undo() -> None:
        scheduler.__dict__.pop("_TRANSITIONS_TABLE", None)

    return undo


def _put_before(
    handlers: dict[str, Any], name: str, handler: Callable[..., Any]
) -> Callable[[], None]:
    """Let `handler` take the place of the stock one; return the call that undoes it."""
    stock, handlers[name] = handlers[name], handler

    def undo() -> None:
        if handlers.get(name) is handler:
            handlers[name] = stock

    return undo


def intercept_add_keys(
    scheduler: Scheduler, take: Callable[[str, Any, int, str], bool]
) -> Callable[[], None]:
    """Ask `take(worker, key, nbytes, stimulus)` first when a worker says that it got a copy.

    A transfer may succeed after the scheduler has given up the worker that it came from.  The
    stock answer to the copy is its removal; for a task that waits for data from outside, it
    is the data.  Returns the call that undoes it.
    """
    stock = required(scheduler.stream_handlers, "add-keys")

    def add_keys(worker: str, keys: Collection[Any] = (), stimulus_id: str = "") -> Any:
        rest = []
        for key in keys:
            ts = scheduler.tasks.get(key)
            if ts is None or ts.nbytes < 0 or not take(worker, key, ts.nbytes, stimulus_id):
                rest.append(key)
        return stock(worker=worker, keys=rest, stimulus_id=stimulus_id) if rest else "OK"

    return _put_before(scheduler.stream_handlers, "add-keys", add_keys)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Keep the garbage collector from walking over thousands of new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def rest_gc_in_update_graph(scheduler: Scheduler) -> Callable[[], None]:
    """Pause the garbage collector while the scheduler takes in a graph.

    Registering a graph makes objects by the thousands, none of which is garbage; the collector
    walks over all of them, and over those of the tasks that are there, again and again.  Returns
    the call that undoes it.
    """
    stock = required(scheduler.stream_handlers, "update-graph")

    async def update_graph(**message: Any) -> Any:
        with gc_paused():
            return await stock(**message)

    return _put_before(scheduler.stream_handlers, "update-graph", update_graph)


def forget_dead_peers(server: Worker) -> Callable[[], None]:
    """Have the client of a worker's tasks give up, at once, a worker that has left the cluster.

    Stock distributed informs the worker, but not the client in it: a task that gathers a result
    from a peer that has just died would try to connect to it for the whole connect timeout.
    Returns the call that undoes it.
    """
    stock = required(server.stream_handlers, "remove-worker")

    def remove_worker(worker: str, stimulus_id: str) -> Any:
        client = getattr(server, "_client", None)
        if client is not None and hasattr(client, "rpc"):
            client.rpc.remove(worker)
        return stock(worker=worker, stimulus_id=stimulus_id)

    return _put_before(server.stream_handlers, "remove-worker", remove_worker)


def to_memory(
    scheduler: Scheduler, worker: str, arrivals: Iterable[tuple[Any, int, str]], stimulus_id: str
) -> None:
    """Move waiting external tasks to memory: triples of key, bytes and type name."""
    recommendations: dict = {}
    client_msgs: dict = {}
    worker_msgs: dict = {}
    listening = scheduler.client_comms  # pseudo-clients are not
    for key, nbytes, typename in arrivals:
        recs, cmsgs, _ = scheduler._transition(
            key,
            "memory",
            stimulus_id,
            worker=worker,
            external_nbytes=nbytes,
            typename=typename,
        )
        recommendations.update(recs)
        for client, msgs in cmsgs.items():
            if client in listening:
                client_msgs.setdefault(client, []).extend(msgs)
    scheduler._transitions(recommendations, client_msgs, worker_msgs, stimulus_id)
    scheduler.send_all(client_msgs, worker_msgs)
    for address in worker_msgs:
        send_now(scheduler.stream_comms.get(address))


def add_replica(scheduler: Scheduler, worker: str, keys: Collection[Any]) -> None:
    """Note that `worker` holds a further copy of keys that are in memory."""
    ws = scheduler.workers[worker]
    for key in keys:
        ts = scheduler.tasks[key]
        if ws not in ts.who_has:
            scheduler.add_replica(ts, ws)


def drop_replica(scheduler: Scheduler, worker: str, keys: list[Any], stimulus_id: str) -> None:
    """Have `worker` drop data that is not wanted."""
    scheduler.worker_send(
        worker, {"op": "remove-replicas", "keys": keys, "stimulus_id": stimulus_id}
    )


def to_erred(
    scheduler: Scheduler, failures: Iterable[tuple[Any, bytes, str]], stimulus_id: str
) -> None:
    """Move waiting external tasks to erred: triples of key, pickled exception and its text."""
    recommendations = {}
    for key, exception, text in failures:
        ts = scheduler.tasks[key]
        # Dask goes by way of "released" and reads there whom to blame.
        ts.exception_blame = ts
        ts.exception = exception
        ts.exception_text = text
        recommendations[key] = "erred"
    scheduler.transitions(recommendations, stimulus_id)


def pickled(exception: BaseException) -> bytes:
    """Return `exception` as the scheduler keeps it; one that cannot be pickled, as text."""
    try:
        data = pickle.dumps(exception)
        pickle.loads(data)
    except Exception:
        data = pickle.dumps(ExternalTaskError(f"{type(exception).__name__}: {exception}"))
    return data


def still_needed(ts: TaskState) -> bool:
    """Whether a client or a waiting task needs this task."""
    return bool(ts.who_wants or ts.waiters)


def is_failing(ts: TaskState) -> bool:
    """Whether a task is on its way to erred."""
    return ts.exception_blame is not None


def has_worker(scheduler: Scheduler, address: str) -> bool:
    """Whether the scheduler has a worker at `address`."""
    return address in scheduler.workers


# -- worker --------------------------------------------------------------------------------

#: States of a worker's task in which Worker.update_data takes a value for good.  In "flight",
#: "cancelled" and "resumed" a transfer of the same key is under way: the value would be dropped,
#: or announced by a stock message that the scheduler answers by removing it.
_ACCEPTING = frozenset({"memory", "released", "fetch", "missing", "forgotten"})


def accepts(worker: Worker, key: Any) -> bool:
    """Whether `worker` can take a value for `key` now."""
    ts = worker.state.tasks.get(key)
    return ts is None or ts.state in _ACCEPTING


def put(worker: Worker, values: Mapping[Any, Any], stimulus_id: str) -> dict[Any, int]:
    """Put values into the worker's memory; return the bytes of those that are held."""
    nbytes = worker.update_data(dict(values), stimulus_id)["nbytes"]
    return {key: n for key, n in nbytes.items() if key in worker.data}


def holds(worker: Worker, key: Any) -> bool:
    """Whether `worker` has a value for `key`, in memory or spilled."""
    return key in worker.data


# -- client --------------------------------------------------------------------------------


def send_to_scheduler(client: Client, message: dict[str, Any]) -> None:
    """Send on the client's own stream, behind what it has sent before.  Thread-safe."""
    client._send_to_scheduler(message)


def make_future(client: Client, key: Any) -> Future:
    """Return a Future of `key`, and register with the scheduler that this client wants it."""
    from distributed import Future

    future = Future(key, client)
    # The Future first: an answer for a key that the client does not know is dropped.
    client._send_to_scheduler({"op": "client-desires-keys", "keys": [key], "client": client.id})
    return future


async def register(client: Client, scheduler_plugin: Any, worker_plugin: Any) -> None:
    """Register both plugins unless plugins of their names are there.  Errors are raised."""
    await client.scheduler.register_scheduler_plugin(
        plugin=pickle.dumps(scheduler_plugin), name=scheduler_plugin.name, idempotent=True
    )
    responses = await client.scheduler.register_worker_plugin(
        plugin=pickle.dumps(worker_plugin), name=worker_plugin.name, idempotent=True
    )
    for response in responses.values():
        if response["status"] == "error":
            _, exception, traceback = clean_exception(**response)
            raise exception.with_traceback(traceback)
