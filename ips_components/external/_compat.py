"""Every touch of a private name of dask or distributed, in one place, checked at start.

The rest of the package calls only what is here and the documented interfaces.  When a new
version of distributed renames something, :func:`check` says so before any task is declared,
and this file is where it is mended.

Supported: distributed 2025.5.1 to 2026.8.0.  Older versions are refused; newer ones are used
with a warning as long as they pass the self-check.
"""

from __future__ import annotations

import functools
import gc
import inspect
import re
import secrets
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import distributed
from dask._task_spec import Task
from distributed.core import clean_exception
from distributed.protocol import pickle
from distributed.scheduler import ClientState, SchedulerState, TaskState
from distributed.worker import Worker

from ips_components.errors import ExternalTaskError, UnsupportedVersion

if TYPE_CHECKING:
    from distributed import Client, Future, Scheduler

#: Oldest and newest version of distributed that the tests run against.
OLDEST = (2025, 5, 1)
NEWEST = (2026, 8, 0)

#: What the self-check looks for: attributes of a class ...
_ATTRIBUTES: Mapping[type, tuple[str, ...]] = {
    SchedulerState: (
        "_TRANSITIONS_TABLE",
        "_transition",
        "_transitions",
        "_add_to_memory",
        "add_replica",
        "new_task",
        "story",
    ),
    distributed.Scheduler: (
        "_check_no_workers",
        "client_desires_keys",
        "client_releases_keys",
        "send_all",
        "transitions",
        "worker_send",
        "check_idle",
        "update_graph",
    ),
    TaskState: (
        "dependencies",
        "dependents",
        "exception",
        "exception_blame",
        "exception_text",
        "group",
        "priority",
        "resource_restrictions",
        "run_spec",
        "state",
        "waiters",
        "waiting_on",
        "who_has",
        "who_wants",
    ),
    ClientState: ("client_key", "wants_what"),
    Worker: ("batched_send", "handle_stimulus", "update_data"),
    distributed.Client: ("_send_to_scheduler", "_update_scheduler_info"),
}
#: ... and parameters of the private calls.
_PARAMETERS: Mapping[Callable[..., Any], tuple[str, ...]] = {
    SchedulerState._transition: ("key", "finish", "stimulus_id", "kwargs"),
    SchedulerState._transitions: (
        "recommendations",
        "client_msgs",
        "worker_msgs",
        "stimulus_id",
    ),
    SchedulerState._add_to_memory: (
        "ts",
        "ws",
        "recommendations",
        "client_msgs",
        "type",
        "typename",
    ),
    SchedulerState.new_task: ("key", "spec", "state"),
    TaskState.__init__: ("key", "run_spec", "state", "group", "validate"),
    Worker.update_data: ("data", "stimulus_id"),
}
_TRANSITIONS = (
    ("waiting", "memory"),
    ("waiting", "released"),
    ("released", "waiting"),
    ("released", "erred"),
    ("released", "forgotten"),
    ("memory", "released"),
    ("waiting", "no-worker"),
    ("no-worker", "released"),
)


# -- versions ------------------------------------------------------------------------------


def parse_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version string.

    Examples
    --------
    >>> parse_version("2026.8.0+3.gabc")
    (2026, 8, 0)
    """
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def missing_names() -> list[str]:
    """Return what this version of distributed lacks of what is needed here."""
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in _ATTRIBUTES.items()
        for name in names
        if not hasattr(owner, name)
    ]
    for call, names in _PARAMETERS.items():
        parameters = inspect.signature(call).parameters
        missing += [f"{call.__qualname__}({name})" for name in names if name not in parameters]
    table = getattr(SchedulerState, "_TRANSITIONS_TABLE", {})
    missing += [f"transition {a} -> {b}" for a, b in _TRANSITIONS if (a, b) not in table]
    return missing


@functools.cache
def check(version: str | None = None) -> None:
    """Refuse an unsupported distributed; warn about one that nobody has tried.

    Raises
    ------
    UnsupportedVersion
        The version is older than the span, or lacks names that are needed.

    Warns
    -----
    UserWarning
        The version is newer than the span but passes the self-check.
    """
    version = distributed.__version__ if version is None else version
    found = parse_version(version)
    span = f"{'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}"
    if found and found < OLDEST:
        raise UnsupportedVersion(
            f"external tasks need distributed {span}; found {version}. "
            "Upgrade with: pip install -U dask distributed"
        )
    if missing := missing_names():
        raise UnsupportedVersion(
            f"external tasks need distributed {span}; found {version}, which lacks "
            f"{', '.join(missing)}. Install a version of that span"
        )
    if found > NEWEST:
        warnings.warn(
            f"external tasks were tested with distributed {span}; {version} passes the "
            "self-check and is used all the same",
            stacklevel=2,
        )


def _required(table: Mapping[str, Any], name: str) -> Any:
    """Return what a scheduler has under `name`, which only an instance can tell."""
    if name not in table:
        raise UnsupportedVersion(
            f"the scheduler of distributed {distributed.__version__} has no {name!r}; "
            "install a supported version"
        )
    return table[name]


# -- scheduler: the gate and the tasks behind it -------------------------------------------


def _never() -> None:
    raise ExternalTaskError(
        "an external task was run by a worker; its value can only come from outside Dask"
    )


class Gate:
    """The one task that no worker can run, and on which all external tasks depend.

    Only the gate rests in Dask's state ``no-worker``, so that what Dask does for each
    unrunnable task (on a join, for adaptive scaling, against a timeout) it does once.
    Dask itself releases and forgets the gate when no external task waits or exists; it is
    made again when needed.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        token = secrets.token_hex(16)
        self.key = f"external-gate-{token[:8]}"
        # No worker can guess the resource, hence none can offer it.
        self._resource = f"external-gate-{token}"
        self._spec = Task(self.key, _never)

    def get(self) -> TaskState:
        """Return the gate's task; it may have to be opened with :meth:`close` afterwards."""
        ts = self._scheduler.tasks.get(self.key)
        if ts is None:
            ts = self._scheduler.new_task(self.key, self._spec, "released")
            ts.priority = (0, 0, 0)
            ts.resource_restrictions = {self._resource: 1}
        return ts

    def close(self, stimulus_id: str) -> None:
        """Let the gate wait, after tasks behind it were created."""
        if self.get().state == "released":
            self._scheduler.transitions({self.key: "waiting"}, stimulus_id)

    def refresh(self) -> None:
        """Make the gate young again for ``no-workers-timeout``."""
        unrunnable = self._scheduler.unrunnable
        ts = self._scheduler.tasks.get(self.key)
        if ts is not None and ts in unrunnable:
            # The dict is ordered by age: out, and in again at its end.
            del unrunnable[ts]
            unrunnable[ts] = monotonic()


def shield_from_no_workers_timeout(scheduler: Scheduler, gate: Gate) -> Callable[[], None]:
    """Refresh the gate immediately before each check of ``no-workers-timeout``.

    A timer of our own could come too late after a long block of the event loop.  Returns the
    call that undoes it.
    """
    callback = _required(scheduler.periodic_callbacks, "no-workers-timeout")
    stock = callback.callback

    def check_no_workers() -> Any:
        gate.refresh()
        return stock()

    callback.callback = check_no_workers

    def undo() -> None:
        if callback.callback is check_no_workers:
            callback.callback = stock

    return undo


def pseudo_client(scheduler: Scheduler, name: str) -> ClientState:
    """Return the pseudo-client called `name`, made if needed."""
    cs = scheduler.clients.get(name)
    if cs is None:
        scheduler.clients[name] = cs = ClientState(name)
    return cs


def forget_pseudo_client(scheduler: Scheduler, name: str) -> bool:
    """Drop the pseudo-client called `name` if it holds nothing; tell whether it is gone."""
    cs = scheduler.clients.get(name)
    if cs is None or not cs.wants_what:
        scheduler.clients.pop(name, None)
        return True
    return False


_SPEC = Task("external", _never)
_PRIORITY = (0, 0, 0)


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


def create_waiting(scheduler: Scheduler, keys: Iterable[Any], gate: Gate, cs: ClientState) -> None:
    """Create tasks in state ``waiting`` behind the gate, held by the pseudo-client `cs`.

    All `keys` must share one name (their first element).  The caller calls :meth:`Gate.close`
    in the same tick of the event loop.
    """
    tasks, validate = scheduler.tasks, scheduler.validate
    gate_ts = gate.get()
    if gate_ts.waiters is None:
        gate_ts.waiters = set()
    group = None
    new = []
    with gc_paused():
        for key in keys:
            if group is None:
                # One split of the name, as dask would do for each key.
                ts = scheduler.new_task(key, _SPEC, "waiting")
                group = ts.group
                group.dependencies.add(gate_ts.group)
            else:
                ts = tasks[key] = TaskState(key, _SPEC, "waiting", group, validate)
            ts.priority = _PRIORITY
            ts.dependencies.add(gate_ts)
            ts.waiting_on = {gate_ts}
            ts.who_wants = {cs}
            new.append(ts)
        gate_ts.dependents.update(new)
        cs.wants_what.update(new)
        if gate_ts.state == "no-worker":
            gate_ts.waiters.update(new)


def is_waiting(scheduler: Scheduler, key: Any) -> bool:
    """Whether the scheduler has `key` as a waiting task made by :func:`create_waiting`."""
    ts = scheduler.tasks.get(key)
    return ts is not None and ts.run_spec is _SPEC and ts.state == "waiting"


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


def intercept_add_keys(
    scheduler: Scheduler, take: Callable[[str, Any, int, str], bool]
) -> Callable[[], None]:
    """Ask `take(worker, key, nbytes, stimulus)` first when a worker says that it got a copy.

    A transfer may succeed after the scheduler has given up the worker that it came from.  The
    stock answer to the copy is its removal; for a task that waits for data from outside, it
    is the data.  Returns the call that undoes it.
    """
    stock = _required(scheduler.stream_handlers, "add-keys")

    def add_keys(worker: str, keys: Collection[Any] = (), stimulus_id: str = "") -> Any:
        rest = []
        for key in keys:
            ts = scheduler.tasks.get(key)
            if ts is None or ts.nbytes < 0 or not take(worker, key, ts.nbytes, stimulus_id):
                rest.append(key)
        return stock(worker=worker, keys=rest, stimulus_id=stimulus_id) if rest else "OK"

    scheduler.stream_handlers["add-keys"] = add_keys

    def undo() -> None:
        if scheduler.stream_handlers.get("add-keys") is add_keys:
            scheduler.stream_handlers["add-keys"] = stock

    return undo


def rest_gc_in_update_graph(scheduler: Scheduler) -> Callable[[], None]:
    """Pause the garbage collector while the scheduler takes in a graph.

    Registering a graph makes objects by the thousands, none of which is garbage; the collector
    walks over all of them, and over those of the tasks that are there, again and again.  Returns
    the call that undoes it.
    """
    stock = _required(scheduler.stream_handlers, "update-graph")

    async def update_graph(**message: Any) -> Any:
        with gc_paused():
            return await stock(**message)

    scheduler.stream_handlers["update-graph"] = update_graph

    def undo() -> None:
        if scheduler.stream_handlers.get("update-graph") is update_graph:
            scheduler.stream_handlers["update-graph"] = stock

    return undo


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


def add_replica(scheduler: Scheduler, worker: str, keys: Collection[Any]) -> None:
    """Note that `worker` holds a further copy of keys that are in memory."""
    ws = scheduler.workers[worker]
    for key in keys:
        ts = scheduler.tasks[key]
        if ws not in ts.who_has:
            scheduler.add_replica(ts, ws)


def drop_replica(scheduler: Scheduler, worker: str, keys: list[Any], stimulus_id: str) -> None:
    """Tell `worker` to drop data that nobody wants."""
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
    """Return a Future of `key` and tell the scheduler that this client wants it."""
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
