"""The Dask pool of a run: settings of the run, its workers, and the contact files of its ranks."""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ips_components import ips_compat
from ips_components.config import AnalyticsConfig, ArrayConfig, RunConfig
from ips_components.ips.multi_simulation import contact_file, runs_of, task_log_file
from ips_components.model.launch_steps import whole_axis

POOL = "analytics"
TASK = "analysis"
TLS = ".tls"
LIVE_PAGE = "live page"
LIBRARIES = ("ips_components.coordination.worker", "ips_components.analysis.run")
"""What every worker of the pool needs."""


class AnalyticsPool:
    """Starts the pool of one run, and publishes how ranks reach it.

    Parameters
    ----------
    services
        Of the analytics component.
    config, run_config
        Its own config, and that of the whole workflow.
    run, run_dir
        Id and directory of the run.
    state
        File with the state that the analysis goes on from; empty for none.
    windows
        File with the state that its windows go on from; empty for none.
    """

    def __init__(
        self,
        services: Any,
        config: AnalyticsConfig,
        run_config: RunConfig,
        run: str,
        run_dir: Path,
        state: str = "",
        windows: str = "",
    ) -> None:
        self.services = services
        self.config = config
        self.run_config = run_config
        self.run = run
        self.run_dir = run_dir
        self.runs = runs_of(run, [each.port for each in run_config.coupled_ports])
        """Run id with the coordinator for each port of a simulation."""
        self.pages: dict[str, str] = {}
        """Address of the live page of each run."""
        self.dashboard = ""
        """Address of Dask's dashboard; empty without one."""
        self.address: dict[str, Any] = {"analysis": config.analysis}
        """Where the scheduler is, and what it is to compute."""
        self._state = state
        self._windows = windows
        self._settings: Any = None

    def start(self) -> None:
        """Start the scheduler, begin to start workers, and submit the analysis."""
        from ips_components.coordination.dashboard import open_dashboard

        self._settings = self._settings_of_all()
        self._prepare_environment()
        self._submit()
        pool = self.running
        try:
            if self.config.dashboard:
                self.dashboard = open_dashboard(pool.client)
            self.address = self._scheduler()
        except BaseException:
            pool.close()
            raise

    def open(self) -> None:
        """Wait for the workers and their receivers, and publish the contact files."""
        from ips_components import analysis

        config, settings, pool = self.config, self._settings, self.running
        try:
            pool.wait_for_workers(settings.n_receivers, config.connect_time_out)
            if config.source:
                return
            endpoints = {
                run: analysis.wait_for_receivers(
                    pool.client, run, settings.n_receivers, config.connect_time_out
                )
                for run in self.runs.values()
            }
        except BaseException:
            pool.close()
            raise
        tokens = {each["run"]: each["token"] for each in settings.partners}
        tokens[self.run] = settings.token
        for run, path in self._contact_files().items():
            if config.live_page:
                self.pages[run] = analysis.open_live_page(pool.client, run)
            self._publish(run, tokens[run], endpoints[run], path)
        for name, _, where in self.addresses():  # a log may be read by others
            log = self.services.warning if name == LIVE_PAGE else self.services.info
            log("%s on %s: %s", name, socket.gethostname(), where)

    @property
    def running(self) -> Any:
        """The pool, while it runs."""
        return ips_compat.running_pool(self.services, POOL)

    def addresses(self) -> list[tuple[str, str, str]]:
        """What can be looked at: name, address, and what a log says instead of the address."""

        def see(key: str, run: str) -> str:
            return f'for the address, see "{key}" in {files[run]}'

        files = self._contact_files()
        found = [(LIVE_PAGE, page, see("live_page", run)) for run, page in self.pages.items()]
        if self.dashboard:
            hint = "the address is shown on a terminal only"
            if not self.config.source:
                hint = see("dashboard", self.run)
            found.append(("Dask dashboard", self.dashboard, hint))
        return found

    @property
    def contacts(self) -> dict[str, str]:
        """Path of the contact file for each port of a simulation."""
        if self.config.source:
            return {}
        files = self._contact_files()
        return {port: str(files[run]) for port, run in self.runs.items()}

    @property
    def certificates(self) -> dict[str, str] | None:
        """Paths of the certificates with which others connect to the scheduler."""
        found = self._certificates()
        return dict(found.fields()) if found is not None else None

    def peek(self) -> dict[str, Any]:
        """Return what the analysis returned, nothing if it failed; the pool goes on."""
        return self.running.peek(TASK) or {}

    def result(self) -> dict[str, Any]:
        """Return what the analysis returned; this ends the pool."""
        summary: dict[str, Any] = self.services.get_finished_tasks(POOL)[TASK]
        return summary

    def close(self) -> None:
        """End the pool when its result was not taken, and remove the contact files."""
        if POOL in self.services.task_pools:
            self.services.remove_task_pool(POOL)
        self.withdraw()

    def withdraw(self) -> None:
        """Remove the contact files: no rank shall connect any more, and they hold secrets."""
        for path in self._contact_files().values():
            path.unlink(missing_ok=True)

    # --- internals ------------------------------------------------------------------------------

    def _contact_files(self) -> dict[str, Path]:
        return {run: self.run_dir / contact_file(run) for run in self.runs.values()}

    def _publish(self, run: str, token: str, endpoints: list[dict[str, Any]], path: Path) -> None:
        """Write the contact file of a run."""
        from ips_components.wire import contact

        config = self.config
        known = contact.Endpoint.__dataclass_fields__
        published = contact.Contact(
            run=run,
            token=token,
            endpoints=tuple(
                contact.Endpoint(**{k: v for k, v in each.items() if k in known})
                for each in endpoints
            ),
            deadlines=config.deadlines,
            options={
                "lanes": list(config.lanes),
                "replay_steps": config.replay_steps,
                "replay_bytes": config.replay_bytes,
                "slot_bytes": config.slot_bytes,
                "on_analytics_loss": config.on_analytics_loss,
            },
            live_page=self.pages.get(run, ""),
            dashboard=self.dashboard,
            tls=self._certificates() if config.security == "tls" else None,
            scheduler=str(self.running.client.scheduler.address) if config.attach else "",
            scheduler_tls=self._certificates() if config.attach else None,
        )
        contact.write(path, published)
        if run in self.pages and config.attach:
            from ips_components.live.pictures import PictureMaker

            PictureMaker(self.running.client, published, path.parent)

    def _certificates(self) -> Any:
        """Where the certificates are that Dask uses, if it does."""
        from ips_components.wire import contact

        credentials = self.services.task_pools[POOL].security.credentials
        if credentials is None:
            return None
        own = str(credentials.certificate)
        return contact.Certificates(authority=own, certificate=own, key=str(credentials.key))

    def _settings_of_all(self) -> Any:
        """Settings of the run; those of further simulations are its partners."""
        config = self.config
        if len(self.runs) < 2:
            return self._settings_of(self.run, config.arrays, **self._launched(0))
        first, *others = [
            self._settings_of(
                run,
                tuple(each for each in config.arrays if each.simulation in ("", port)),
                simulation=port,
                memory_share=config.memory_share / len(self.runs),
                **self._launched(number),
            )
            for number, (port, run) in enumerate(self.runs.items())
        ]
        return replace(first, partners=tuple(each.to_dict() for each in others))

    def _settings_of(self, name: str, mine: tuple[ArrayConfig, ...], **changes: Any) -> Any:
        from ips_components.coordination import RunSettings
        from ips_components.wire.contact import new_token

        config, n_steps = self.config, changes.get("n_steps", self.run_config.n_steps)
        launches = changes.get("launches", {})
        arrays = tuple(
            whole_axis(each, launches) for array in mine for each in array.descriptions(n_steps)
        )
        suffix = ".nc" if config.results_format == "netcdf" else ".zarr"
        # A parameter with the name of a setting travels as it is.
        names = [each.name for each in fields(RunSettings) if hasattr(config, each.name)]
        settings: dict[str, Any] = {
            **{name: getattr(config, name) for name in names},
            "run": name,
            "token": new_token(),
            "parameters": config.analysis_args,
            "arrays": arrays or None,
            "decompositions": {a.name: a.decomposition for a in config.arrays if a.decomposition},
            "halos": {a.name: a.halo for a in config.arrays if a.halo},
            "shared": {a.name: a.owner for a in config.arrays if a.owner},
            "chunks": {a.name: a.chunks for a in config.arrays if a.chunks},
            "steps": {a.name: dict(a.steps) for a in config.arrays if a.steps and a.shape is None},
            "at_most": tuple(a.name for a in config.arrays if a.at_most),
            "policies": {name: a.policy for a in config.arrays for name in a.names},
            "results": str(self.run_dir / (config.results or f"results{suffix}")),
            "run_dir": str(self.run_dir),
            "task_log": str(self.run_dir / task_log_file(name)) if config.task_log else "",
            "checkpoint": self._state,
            "windows": self._windows,
            "n_steps": n_steps,
            **changes,
        }
        return RunSettings(**settings)

    def _launched(self, number: int) -> dict[str, Any]:
        """Settings of one simulation: its steps, its ranks, whether it is launched many times."""
        run = self.run_config
        if not run.coupled_ports:
            return {}
        simulation = run.coupled_ports[number]
        return {
            "n_steps": run.steps_of(simulation),
            # How many processes a component of another kind launches is its own affair.
            "n_ranks": (simulation.nproc or None) if simulation.executable else None,
            "launches": run.launches_of(simulation),
            "leave_out": simulation.on_failure == "leave_out",
            "times": run.times_of_steps() if run.attended else {},
        }

    def _prepare_environment(self) -> None:
        """Let the workers find the analysis beside the config; this process is our own."""
        path = [self.config.input_dir, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        os.environ["PYTHONPATH"] = os.pathsep.join(each for each in path if each)
        ips_compat.prepare_launcher(self.run_config.oversubscribe)
        # A worker that dies must not take the others with it, whatever the site's default is.
        os.environ["SLURM_KILL_BAD_EXIT"] = "0"

    def _submit(self) -> None:
        from ips_components.coordination import run_plugin

        services, config, settings = self.services, self.config, self._settings
        plain, source = settings.to_dict(), config.source

        def analysis() -> dict[str, Any]:
            """IPS would turn arguments into text, and write the run's secret into its log.

            What it needs is imported where it runs, not where its graph is only passed on.
            """
            from ips_components.analysis import replay, run_analysis

            return replay(plain, source) if source else run_analysis(plain)

        services.create_task_pool(POOL)
        pool = services.task_pools[POOL]
        pool.libraries = LIBRARIES
        pool.secrets = [*self._contact_files().values()]
        pool.credentials_directory = self.run_dir / TLS
        services.add_task(POOL, TASK, 1, services.get_working_dir(), analysis)
        services.submit_tasks(
            POOL,
            use_dask=True,
            dask_nodes=config.dask_nodes,
            dask_ppw=config.dask_ppw,
            use_shifter=config.use_shifter,
            dask_worker_plugin=self._with_others(None if source else run_plugin(settings)),
            dask_worker_per_gpu=config.dask_worker_per_gpu,
        )

    def _with_others(self, plugin: Any) -> Any:
        """Put the worker plugins that the config names beside ours."""
        config = self.config
        if config.worker_plugins is None:
            return plugin
        from ips_components.plugins import PluginStack

        sys.path.insert(0, config.input_dir)  # this process is the component's own
        module, _, function = config.worker_plugins.partition(":")
        others = getattr(import_module(module), function)(self.services.get_working_dir())
        others = list(others) if isinstance(others, (list, tuple)) else [others]
        return PluginStack(others if plugin is None else [plugin, *others])

    def _scheduler(self) -> Mapping[str, Any]:
        """Where the pool's scheduler is, and what it is to compute."""
        return {
            "analysis": self.config.analysis,
            "scheduler": self.running.client.scheduler.address,
            "dashboard": self._former_dashboard(),
        }

    def _former_dashboard(self) -> str | None:
        """Where the dashboard was, for the record: without the secret, since others may read it."""
        if not self.dashboard:
            return None
        port = self.dashboard.split("/")[2].rpartition(":")[2]
        return f"port {port} of the loopback interface of {socket.gethostname()}, during the run"
