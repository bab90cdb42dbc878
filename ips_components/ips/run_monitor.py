"""Follows the runs of an analysis until they are over."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ips_components import ips_compat
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import AnalyticsLost
from ips_components.ips.analytics_pool import AnalyticsPool
from ips_components.ips.coupling import Records, launches_of
from ips_components.ips.events import ProgressEvents
from ips_components.ips.multi_simulation import together
from ips_components.ips.watch import ASK, GOODBYE, Watch, end_together, wait_for_attached

if TYPE_CHECKING:
    from ips_components.report import Progress


class RunMonitor:
    """Shows how far the runs are, and fails them when nothing more can be expected.

    Parameters
    ----------
    services
        Of the analytics component.
    records
        Of its coupling, which hold the launches.
    pool
        With the analysis and the receivers.
    progress
        Where the terminal shows how far it is.
    """

    def __init__(
        self, services: Any, records: Records, pool: AnalyticsPool, progress: "Progress"
    ) -> None:
        self._services, self._pool, self._progress = services, pool, progress
        self._events = ProgressEvents(services)
        self._contract_shown = False

        def launched(port: str) -> Callable[[], Mapping[str, Any]]:
            return lambda: records.read(launches_of(port))

        self._watches = {
            port: Watch(pool.running.client, run, launched(port), pool.config)
            for port, run in pool.runs.items()
        }

    def follow(self, on_failure: Callable[[], None]) -> None:
        """Look until all runs are over.

        Parameters
        ----------
        on_failure
            Called when the analysis has failed; the simulation may go on for long.

        Raises
        ------
        AnalyticsLost
            When the pool is lost.
        """
        running, watches = self._pool.running, self._watches.values()
        running.on_poll = self.look
        try:
            for error in running.wait_for_tasks().values():
                for watch in watches:
                    watch.fail("analysis", ips_compat.describe(error))
                on_failure()
            # The receivers stay until all ranks have closed their bridges.
            poll_until(
                self._all_over, Deadline(math.inf), pause=0.01, growth=2.0, max_pause=GOODBYE
            )
            wait_for_attached(list(watches), self.look)
            self._events.end(self._state())
        except BaseException:
            self._events.end(self._state(), failed=True)
            raise

    def look(self, interval: float = ASK) -> None:
        """Ask for the state of the runs, if the last time was so many seconds ago, and show it."""
        try:
            for watch in self._watches.values():
                watch.look(interval)
        except AnalyticsLost:
            if self._pool.running.loss():  # the wait for the pool says which process is gone
                return
            raise
        if self._pool.config.on_analytics_loss == "abort":
            end_together(self._watches)
        self._show_contract()
        state = self._state()
        self._progress.update(state)
        self._events.update(state)

    def _all_over(self) -> bool:
        self._pool.running.check()
        self.look(0.0)
        return all(watch.over for watch in self._watches.values())

    def _state(self) -> Mapping[str, Any]:
        return together(watch.state for watch in self._watches.values())

    def _show_contract(self) -> None:
        """Show the table of all contracts once, when the last one is signed."""
        from ips_components.report import contract_table

        terms = [watch.terms for watch in self._watches.values()]
        if not self._contract_shown and None not in terms:
            self._contract_shown = True
            table = contract_table([row for rows in terms for row in rows or ()])
            self._progress.note(table)
            self._services.info(table)
