"""The end of a run: its record, its report, its figure and the summary on the terminal."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ips_components import ips_compat
from ips_components.config import RunConfig, SimulationConfig
from ips_components.ips.alike import is_rank, same_on_others, without_rank
from ips_components.ips.coupling import COORDINATOR, Records, launches_of

_WORD = re.compile(r"\w")
_NAMES_AN_ERROR = re.compile(r"[A-Z][\w.]*(Error|Exception)\b")
_CLOSE = "(`with Bridge(...)`, ips_bridge_close) before MPI_Finalize"
_LEDGER_OPEN = "the ledger does not close: some blocks were produced and never accounted for"


@dataclass
class Conclusion:
    """What is known of a run at its end, put together by `write`.

    Parameters
    ----------
    services
        Of the component that writes it.
    config
        Of the run.
    run, run_dir
        Its id and its directory.
    started
        When it began, in seconds since the epoch.
    pool
        Where the scheduler was, and what it was to compute.
    outcome
        What the analysis returned: ``results``, ``variables``, ``contract``; and the names of the
        ``figures`` that were drawn.
    records
        What the components know of each other; that of the framework by default.
    """

    services: Any
    config: RunConfig
    run: str
    run_dir: Path
    started: float
    pool: dict[str, Any] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] | None = None

    def write(self, error: BaseException | None) -> str:
        """Write record and report, and print the summary.

        Parameters
        ----------
        error
            What made the run fail, None when it went well.

        Returns
        -------
        str
            Why the run failed, empty when it went well: a ledger that does not close fails a run,
            too.
        """
        from ips_components.report import make_record, write_record, write_report
        from ips_components.report.ledger import print_summary
        from ips_components.report.progress_file import ProgressFile

        ProgressFile.wanted().note(doing="writing the report", run_dir=str(self.run_dir))
        read = Records(self.services).read if self.records is None else self._known
        coordinator = read(COORDINATOR)
        simulations = self.config.coupled_ports
        launches = {each.port: read(launches_of(each.port)) for each in simulations}
        cause = None if error is None else in_short(ips_compat.describe(error))
        if isinstance(error, SystemExit):
            cause = "the run was ended by a signal"
        if error is None:
            cause = _fault_of(coordinator, launches, len(simulations)) or None
        contract = self.outcome.get("contract")
        record = make_record(
            self.run,
            status="ok" if cause is None else "failed",
            cause=cause,
            coordinator=coordinator,
            config=self.config.parameters(),
            started=self.started,
            ended=time.time(),
            comment=self.config.comment,
            n_steps=self.config.n_steps if simulations else None,
            pool=self.pool,
            **self._who_ran(coordinator, launches),
            contract=None if contract is None else {"arrays": contract},
            results={
                "path": self.outcome.get("results"),
                "variables": self.outcome.get("variables", {}),
            },
            figures=self.outcome.get("figures", []),
        )
        write_record(record, self.run_dir)
        write_report(self.run_dir, record)
        print_summary(record, self.run_dir, cause=False)  # it comes last, from the framework
        return cause or ""

    def _known(self, name: str) -> Mapping[str, Any]:
        return (self.records or {}).get(name, {})

    def _who_ran(
        self, coordinator: Mapping[str, Any], launches: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The parts of the record about the simulations: programs, hosts and launches."""
        simulations = self.config.coupled_ports
        if not simulations:
            return {"simulation": {"source": self.config.analytics[0].source}}
        parts = [_facts(each, launches[each.port], coordinator) for each in simulations]
        return {"simulation": parts[0], **({"simulations": parts} if len(parts) > 1 else {})}


def prepare() -> None:
    """Read what `Conclusion.write` needs, while the other components are at work."""
    import_module("rich.console")
    import_module("ips_components.report.ledger")
    import_module("ips_components.report.html").template()


def say(
    fault: Mapping[str, Any],
    launches: Mapping[str, Mapping[str, Any]],
    faults: Iterable[Mapping[str, Any]] = (),
) -> str:
    """Return a fault as the coordinator saw it; of a lost rank, what its program may lack.

    Parameters
    ----------
    fault
        With ``who``, ``what`` and ``cause``.
    launches
        The records `launches_of` the ports of all simulations.
    faults
        All of the run: how many other ranks failed with the same cause.
    """
    from ips_components.report.record import last_line

    said = f"{fault['who']} {fault['what']}: {last_line(fault['cause'])}"
    others = {each["who"] for each in faults if _same_on_ranks(fault, each)} - {fault["who"]}
    if others:
        said, where = ips_compat.split_where(said)
        said = f"{said} ({same_on_others(len(others))})" + (f"; at {where}" if where else "")
    if fault["what"] == "lost" and all(each.get("ok") for each in launches.values()):
        return f"{said}; its program ended well: does each rank close the bridge {_CLOSE}?"
    return said


def _same_on_ranks(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two ranks have failed alike: their messages differ in the rank at most."""
    mine, theirs = ((each["what"], without_rank(each["cause"])) for each in (one, other))
    return is_rank(one["who"]) and is_rank(other["who"]) and mine == theirs


def _fault_of(
    coordinator: Mapping[str, Any],
    launches: Mapping[str, Mapping[str, Any]],
    n_simulations: int = 1,
) -> str:
    """Return why a run has failed although no component raised; empty if it went well."""
    if (fatal := coordinator.get("fatal")) is not None:
        return say(fatal, launches, coordinator.get("faults") or ())
    left_out = coordinator.get("left_out") or []
    if left_out and len(left_out) == n_simulations:
        return f"every simulation has failed: {left_out[0]['cause']}"
    if (coordinator.get("ledger") or {}).get("closed", False):
        return ""
    if not coordinator.get("ranks"):
        return "no rank ever joined the run: its coordinator has no account of any"
    byes = coordinator.get("byes") or {}
    silent = [r["rank"] for r in coordinator.get("ranks", ()) if str(r["rank"]) not in byes]
    if silent:
        who = f"rank {silent[0]}" + (f" and {len(silent) - 1} others" if silent[1:] else "")
        return (
            f"{who} ended without closing the bridge, so that the ledger is open: close it {_CLOSE}"
        )
    return _LEDGER_OPEN


def _facts(
    config: SimulationConfig, launched: Mapping[str, Any], coordinator: Mapping[str, Any]
) -> dict[str, Any]:
    """What the record says about one simulation."""
    hosts = [
        rank.get("host")
        for rank in coordinator.get("ranks", ())
        if rank.get("simulation", config.port) == config.port
    ]
    launches = launched.get("launches") or []
    known = launches[-1] if launches else {"executable": config.program(), "nproc": config.nproc}
    return {
        "port": config.port,
        **{name: known.get(name) for name in ("executable", "nproc", "exit_status")},
        "hosts": sorted({host for host in hosts if host}),
        "launches": launches,
    }


def in_short(text: str) -> str:
    """First line of a message, the line of it that names an error, and where that was raised."""
    text, where = ips_compat.split_where(text.strip())
    first, *lines = [line.strip() for line in text.splitlines() if _WORD.search(line)] or [""]
    named = [line for line in lines if _NAMES_AN_ERROR.match(line)] or lines
    return " ".join([first, *named[-1:]]) + (f"; at {where}" if where else "")
