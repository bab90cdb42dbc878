"""Watches a run from outside: how far it is, and whether there is still hope."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ips_components.config import AnalyticsConfig
from ips_components.deadlines import Deadline
from ips_components.errors import AnalyticsLost

ASK = 1.0
#: Seconds between two looks at the end of a run.
GOODBYE = 0.1
#: Seconds that attached clients have after the end of the simulation.
_LAST_RESULTS = 10.0
#: Seconds that ranks have to end by themselves once they have the cause, and where no receiver is
#: left that could have sent it.
_LEAVE, _LEAVE_UNINFORMED = 10.0, 2.0


class Watch:
    """Looks several times a second whether a run still has a chance, and fails it if not.

    Parameters
    ----------
    client
        Of the pool's scheduler.
    run
        Id of the run.
    launched
        Returns the record of the launches of the run's simulation.
    config
        Its deadlines.
    """

    def __init__(
        self,
        client: Any,
        run: str,
        launched: Callable[[], Mapping[str, Any]],
        config: AnalyticsConfig,
    ) -> None:
        self.client = client
        self.run = run
        self.launched = launched
        self.config = config
        self.over = False
        self.state: Mapping[str, Any] = {}
        self.terms: list[dict[str, Any]] | None = None
        """The table of the contract, once there is one."""
        self._failed = 0.0
        self._asked = 0.0
        self._progress: tuple[Any, ...] = ()
        self._moved = time.monotonic()
        self._simulation_ended = 0.0
        self._given_up = False
        self._patience = config.silence_time_out

    def fail(self, who: str, cause: str) -> None:
        """Have the coordinator fail the run; it ignores later causes."""
        from ips_components import analysis

        if not self._given_up:
            self._given_up = True
            analysis.abort_run(self.client, self.run, cause, who=who, within=self._patience)

    def look(self, interval: float = ASK) -> None:
        """Ask the coordinator how far it is, if the last time was so many seconds ago."""
        from ips_components.analysis.coordinator_client import call

        now = time.monotonic()
        if now - self._asked < interval:
            return
        self._asked = now
        try:
            state = call(self.client, "progress", self.run, within=self._patience)
            if self.terms is None and state.get("phase") in ("contracted", "running", "ended"):
                self.terms = call(self.client, "terms", self.run, within=self._patience)
        except TimeoutError:
            raise AnalyticsLost(
                f"the Dask scheduler has not answered for {self._patience:g} s (SILENCE_TIME_OUT): "
                "it is stopped or overloaded; see its log"
            ) from None
        except AnalyticsLost:
            raise
        except Exception:  # the pool is watched elsewhere, and ends the wait when it is lost
            return
        self.state = state
        progress = tuple(
            state.get(name)
            for name in ("phase", "ranks", "steps", "signs", "analysed", "delivered")
        )
        if progress != self._progress:
            self._progress, self._moved = progress, now
        phase = state.get("phase")
        self.over = phase == "ended" or (phase == "failed" and not self._on_their_way(state, now))
        if phase not in ("ended", "failed") and (cause := self._hopeless(state, now)):
            self.fail("simulation", cause)

    def _on_their_way(self, state: Mapping[str, Any], now: float) -> bool:
        """Whether ranks of a failed run still need the receivers.

        To learn that they are alone; and as long as they put, since clients may attach.
        """
        self._failed = self._failed or now
        if self.config.on_analytics_loss != "continue" or self.launched().get("state") == "ended":
            return False
        if self.config.attach and state.get("alone"):
            return True
        return bool(state.get("joining")) and now - self._failed < self.config.connect_time_out

    def _hopeless(self, state: Mapping[str, Any], now: float) -> str:
        """Why nothing more can be expected of the simulation, or ""."""
        launched = self.launched()
        still = now - self._moved
        if launched.get("state") == "ended" and self._more_may_come(launched):
            self._moved = now
        elif launched.get("state") == "ended":
            self._simulation_ended = self._simulation_ended or now
            if not launched["ok"]:
                return str(launched["cause"]) if now - self._simulation_ended > 2 * ASK else ""
            if still > self.config.drain_time_out or not state.get("ranks"):
                return (
                    "it ended well, but not all of its ranks closed their bridges"
                    if state.get("ranks")
                    else "it ended without a word: does it open a bridge?"
                )
        elif launched.get("state") == "started":
            if not state.get("ranks") and still > self.config.connect_time_out:
                return (
                    f"no rank said hello within {self.config.connect_time_out:g} s "
                    "(CONNECT_TIME_OUT)"
                )
            if still > self.config.step_time_out:
                return (
                    f"no step was completed for {self.config.step_time_out:g} s (STEP_TIME_OUT), "
                    f"after {state.get('steps', 0)} steps that the analysis takes"
                )
        return ""

    def _more_may_come(self, launched: Mapping[str, Any]) -> bool:
        """Whether the program was ended well and may be launched again."""
        return bool(launched.get("many")) and bool(launched["ok"]) and not launched.get("finalized")


def end_together(watches: Mapping[str, Watch]) -> None:
    """Where one of several runs has failed, let the others fail, too.

    Parameters
    ----------
    watches
        By port of the simulation. One that is alive, but waits for a rank that is not, would not
        end for a long time, and the others with it.
    """
    failed = [port for port, watch in watches.items() if watch.state.get("phase") == "failed"]
    for port, watch in watches.items() if failed else ():
        if port not in failed and watch.state.get("phase") != "ended":
            watch.fail("simulation", f"{failed[0]} failed, and ON_ANALYTICS_LOSS = abort")


def wait_for_attached(watches: Sequence[Watch], look: Callable[[float], None]) -> None:
    """Let attached clients take their last results, for a bounded time."""
    deadline = Deadline(_LAST_RESULTS)
    while any(watch.state.get("attached") for watch in watches) and not deadline.expired:
        time.sleep(GOODBYE)
        look(GOODBYE)


class LaunchWatch:
    """Watches one launch from the component that has launched it; a context manager.

    Parameters
    ----------
    client, run, launched, config
        As of `Watch`.
    retried
        Whether a launch that fails is launched again.
    """

    def __init__(
        self,
        client: Any,
        run: str,
        launched: Callable[[], Mapping[str, Any]],
        config: AnalyticsConfig,
        retried: bool,
    ) -> None:
        from ips_components.report import Progress

        self._watch = Watch(client, run, launched, config)
        self._retried = retried
        self._progress = Progress(quiet=not config.progress)
        self._failed = 0.0

    def __enter__(self) -> "LaunchWatch":
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    def hopeless(self) -> str:
        """Return why the task must be ended, "" while it may go on."""
        config, watch = self._watch.config, self._watch
        try:
            watch.look()
        except AnalyticsLost as error:
            return str(error) if config.on_analytics_loss == "abort" else ""
        state = watch.state
        self._progress.update(state)
        cause = self._cause(state)
        if not cause:
            return ""
        # Ranks that know the cause end by themselves, unless they wait for one that is gone.
        self._failed = self._failed or time.monotonic()
        fatal = state.get("fatal") or {}
        leave = _LEAVE_UNINFORMED if fatal.get("who") == "analytics" else _LEAVE
        return cause if time.monotonic() - self._failed > leave else ""

    def _cause(self, state: Mapping[str, Any]) -> str:
        fatal = state.get("fatal")
        if fatal is not None:
            own = fatal["who"] == "simulation" or fatal["who"].startswith("rank")
            if own or self._watch.config.on_analytics_loss == "abort":
                return f"{fatal['who']} {fatal['what']}: {fatal['cause']}"
        elif self._retried and state.get("lost"):
            rank, why = next(iter(state["lost"].items()))
            return f"rank {rank} lost: {why}"
        return ""
