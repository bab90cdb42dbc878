"""The schema of the run record, as a table, and the forty lines that check against it.

jsonschema was tried in its place: it does not fill in defaults, which is most of the work here,
needs a compiled dependency, and adds 80 ms to the end of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ips_components.errors import RecordError


@dataclass(frozen=True, slots=True)
class Value:
    """A scalar; ``types`` is empty for anything at all."""

    says: str
    types: tuple[type, ...] = ()
    default: Any = None
    one_of: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """A list whose items all look alike."""

    item: Any


@dataclass(frozen=True, slots=True)
class Table:
    """An object with any names, whose values all look alike."""

    value: Any


@dataclass(frozen=True, slots=True)
class Entry:
    """An object with known fields; unknown ones are kept."""

    fields: Mapping[str, Any]


TEXT = Value("text", (str,))
NUMBER = Value("a number", (int, float))
COUNT = Value("a whole number", (int,))
ZERO = Value("a whole number", (int,), 0)
NOTHING_YET = Value("a number", (int, float), 0.0)
FLAG = Value("true or false", (bool,), False)
ANY = Value("anything")

LEDGER_ENTRIES = ("produced", "skipped", "delivered", "dropped", "lost")
_account = Entry(dict.fromkeys(LEDGER_ENTRIES, ZERO))
_simulation = Entry(
    {
        "port": TEXT,
        "executable": TEXT,
        "nproc": COUNT,
        "exit_status": COUNT,
        "source": TEXT,
        "hosts": Listing(TEXT),
        "launches": Listing(
            Entry(
                {
                    "launch": COUNT,
                    "first_step": COUNT,
                    "time": ANY,
                    "nproc": COUNT,
                    "started": NUMBER,
                    "ended": NUMBER,
                    "ok": FLAG,
                }
            )
        ),
    }
)

#: ``run.json``, version 1.  Times are seconds since the epoch, durations seconds, sizes bytes.
RECORD = Entry(
    {
        "format": Value("text", (str,), "ips-components-run"),
        "version": Value("a whole number", (int,), 1),
        "run": Value("text", (str,), "unknown"),
        "status": Value("'ok' or 'failed'", (str,), "failed", ("ok", "failed")),
        "cause": TEXT,
        "comment": TEXT,
        "started": NUMBER,
        "ended": NUMBER,
        "n_steps": COUNT,
        "stop_reason": TEXT,
        "config": Table(ANY),
        "versions": Table(TEXT),
        "simulation": _simulation,
        "simulations": Listing(_simulation),
        "pool": Entry({"scheduler": TEXT, "dashboard": TEXT, "analysis": TEXT}),
        "workers": Listing(
            Entry(
                {
                    "receiver": COUNT,
                    "address": TEXT,
                    "host": TEXT,
                    "hostname": TEXT,
                    "pid": COUNT,
                    "nthreads": COUNT,
                    "memory_limit": NUMBER,
                }
            )
        ),
        "ranks": Listing(Entry({"rank": COUNT, "host": TEXT, "pid": COUNT, "lane": TEXT})),
        "byes": Table(TEXT),
        "contract": Entry(
            {
                "arrays": Listing(
                    Entry(
                        {
                            "name": Value("text", (str,), "?"),
                            "dtype": TEXT,
                            "shape": Listing(COUNT),
                            "dims": Listing(TEXT),
                            "steps": ANY,
                            "region": ANY,
                            "fraction": NUMBER,
                            "bytes": NUMBER,
                            "chunks": ANY,
                            "steps_per_chunk": ANY,
                            "chunk_reason": ANY,
                            "times_used": ANY,
                            "widened_by": ANY,
                        }
                    )
                )
            }
        ),
        "ledger": Entry(
            {"closed": FLAG, "arrays": Table(Entry({"blocks": _account, "bytes": _account}))}
        ),
        "steps": Listing(
            Entry(
                {
                    "step": Value("a whole number", (int,), 0),
                    "first_put": NUMBER,
                    "complete": NUMBER,
                    "analysed": NUMBER,
                    "delivered": NUMBER,
                    "waited": Entry({"max": NOTHING_YET, "mean": NOTHING_YET}),
                }
            )
        ),
        "step_counts": Entry({"put": COUNT, "begun": COUNT, "complete": COUNT, "analysed": COUNT}),
        "waited": Entry({"per_rank": Listing(NOTHING_YET)}),
        "samples": Listing(
            Entry(
                {
                    "t": NUMBER,
                    "worker": TEXT,
                    "rss": NUMBER,
                    "managed": NUMBER,
                    "held": NUMBER,
                    "credits": NUMBER,
                }
            )
        ),
        "states": Table(ZERO),
        "faults": Listing(
            Entry(
                {
                    "t": NUMBER,
                    "who": Value("text", (str,), "?"),
                    "what": Value("text", (str,), "?"),
                    "cause": Value("text", (str,), ""),
                }
            )
        ),
        "faults_left_out": ZERO,
        "attached": Listing(
            Entry(
                {
                    "name": TEXT,
                    "since": NUMBER,
                    "until": NUMBER,
                    "why": TEXT,
                    "n_contracts": ZERO,
                    "contracts": Listing(ANY),
                }
            )
        ),
        "left_out": Listing(
            Entry(
                {
                    "t": NUMBER,
                    "who": Value("text", (str,), "?"),
                    "what": Value("text", (str,), "?"),
                    "cause": Value("text", (str,), ""),
                    "simulation": TEXT,
                }
            )
        ),
        "results": Entry(
            {
                "path": TEXT,
                "variables": Table(
                    Entry(
                        {
                            "shape": Listing(COUNT),
                            "dtype": TEXT,
                            "dims": Listing(TEXT),
                            "units": TEXT,
                            "min": NUMBER,
                            "max": NUMBER,
                            "missing": COUNT,
                            "renamed": ANY,
                            "values": ANY,
                        }
                    )
                ),
            }
        ),
        "figures": Listing(TEXT),
    }
)


def complete(schema: Any, value: Any, where: str) -> Any:
    """`value` with every default of `schema` filled in.

    Raises
    ------
    RecordError
        Naming `where` the value does not fit.
    """
    match schema:
        case Value():
            return _scalar(schema, value, where)
        case Listing():
            items = _expect(value, list, "a list", where)
            return [complete(schema.item, item, f"{where}[{i}]") for i, item in enumerate(items)]
        case Table():
            table = _expect(value, dict, "an object", where)
            return {k: complete(schema.value, item, f"{where}.{k}") for k, item in table.items()}
        case Entry():
            entry = _expect(value, dict, "an object", where)
            known = {
                name: complete(field, entry.get(name), f"{where}.{name}")
                for name, field in schema.fields.items()
            }
            return {**entry, **known}
    raise TypeError(f"{schema!r} is no schema")


def _scalar(schema: Value, value: Any, where: str) -> Any:
    if value is None:
        return schema.default
    mistaken_flag = isinstance(value, bool) and bool not in schema.types
    if schema.types and (mistaken_flag or not isinstance(value, schema.types)):
        raise RecordError(f"{where}: expected {schema.says}, got {value!r}")
    if schema.one_of and value not in schema.one_of:
        raise RecordError(f"{where}: expected {schema.says}, got {value!r}")
    return value


def _expect(value: Any, kind: type, says: str, where: str) -> Any:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise RecordError(f"{where}: expected {says}, got {value!r}")
    return value
