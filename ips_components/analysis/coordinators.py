"""The coordinators of all simulations of a run, called as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distributed import Client

from ips_components.analysis.coordinator_client import Coordinator, RemoteCoordinator
from ips_components.coordination.settings import RunSettings
from ips_components.wire.messages import Feedback

__all__ = ["Coordinators"]


class Coordinators:
    """What an analysis asks of all simulations that feed it: each has a coordinator of its own.

    Parameters
    ----------
    client
        Client of the cluster.
    settings
        Of the analysis's own run; further runs are among its partners.
    given
        By run id, the run's own first. Default: those on the scheduler.
    """

    def __init__(
        self, client: Client, settings: RunSettings, given: Mapping[str, Coordinator] | None
    ) -> None:
        partners = [RunSettings.from_dict(each) for each in settings.partners]
        self.settings = {each.run: each for each in (settings, *partners)}
        """By run id, the run's own first, as in `by_run`."""
        self.by_run: Mapping[str, Coordinator] = given or {
            run: RemoteCoordinator(client, run) for run in self.settings
        }
        self.own = self.by_run[settings.run]
        self._own_settings = settings
        self._aborted = False

    @property
    def are_several(self) -> bool:
        """Whether more than one simulation feeds the analysis."""
        return len(self.settings) > 1

    def open(self) -> dict[str, Any]:
        """Open the runs of all simulations; return what an earlier attempt has left."""
        opened = {
            run: self.by_run[run].open(replace(settings, partners=()))
            for run, settings in reversed(self.settings.items())
        }
        return opened[self._own_settings.run]

    def wait_for_receivers(self) -> None:
        """Wait until the receivers of all runs are open."""
        n, within = self._own_settings.n_receivers, self._own_settings.deadlines["connect"]
        for coordinator in self.by_run.values():
            coordinator.wait_for_receivers(n, within)

    def commit(self, keys: Sequence[Any], names: Sequence[str]) -> None:
        """Wait until the scheduler knows the keys of all results, then let the ranks begin."""
        for coordinator in self.by_run.values():
            coordinator.commit(list(keys), list(names), self._own_settings.deadlines["contract"])

    def send(self, value: Feedback) -> None:
        """Send a value to all simulations."""
        fields = {each: getattr(value, each) for each in ("name", "step", "kind", "shape", "data")}
        for coordinator in self.by_run.values():
            coordinator.send(fields)

    def stop(self, reason: str) -> None:
        """End all simulations early and cleanly."""
        for coordinator in self.by_run.values():
            coordinator.stop(reason)

    def abort(self, cause: str) -> None:
        """Fail the runs of all simulations, once: what fails afterwards is a consequence."""
        if not self._aborted:
            self._aborted = True
            for coordinator in self.by_run.values():
                coordinator.abort(cause)

    def finish(self, outcome: Mapping[str, Any] | None) -> None:
        """Release everything that is held for the analysis; None: it has failed."""
        for coordinator in self.by_run.values():
            coordinator.finish(outcome)
