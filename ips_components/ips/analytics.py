"""IPS component that runs a Dask analysis of what a simulation puts, in transit.

In the config: ``MODULE = ips_components.analytics`` and ``NAME = Analytics``.
"""

import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ipsframework import Component

from ips_components import ips_compat
from ips_components.config import AnalyticsConfig, ArrayConfig
from ips_components.ips.events import TOPIC as PROGRESS_TOPIC
from ips_components.ips.events import ProgressEvents
from ips_components.ips.multi_simulation import (
    contact_file,
    one_record,
    runs_of,
    task_log_file,
    together,
)
from ips_components.ips.notices import COORDINATOR, about, leave_notice
from ips_components.ips.watch import ASK, Watch, end_together

ips_compat.install()

__all__ = ["PROGRESS_TOPIC", "Analytics"]

POOL = "analytics"
TASK = "analysis"
TLS = ".tls"
_GOODBYE = 0.1
_ANSWER = 5.0


class Analytics(Component):
    """Starts a Dask pool with receivers in its workers, and runs the analysis in it."""

    _state = ""
    """File with the state that the analysis goes on from."""
    _new_state = ""
    """File with the state that it reached."""

    def init(
        self, timestamp: float = 0.0, run: str = "", run_dir: str = "", **keywords: Any
    ) -> dict[str, Any]:
        """Start the pool, submit the analysis, and publish where the receivers are.

        Parameters
        ----------
        timestamp
            Time of the time loop.
        run
            Id of the run.
        run_dir
            Directory of the run.

        Returns
        -------
        dict
            ``contacts``, the path of a contact file for each port of a simulation, and ``pool``,
            where the scheduler is, for the run's record.
        """
        from ips_components import analysis

        config = self._config()
        self._run, self._run_dir = run, Path(run_dir)
        simulations = ips_compat.run_config(self.services).simulations
        self._runs = runs_of(run, [each.port for each in simulations])
        self._pages: dict[str, str] = {}
        settings = self._settings(config)
        if config.input_files:
            self.services.stage_input_files(self.INPUT_FILES)
        self._prepare_environment(config)
        self._submit(config, settings)
        pool = ips_compat.running_pool(self.services, POOL)
        try:
            pool.wait_for_workers(settings.n_receivers, config.connect_time_out)
            if config.source:
                return {"contacts": {}, "pool": _address(pool.client, config)}
            endpoints = {
                each: analysis.wait_for_receivers(
                    pool.client, each, settings.n_receivers, config.connect_time_out
                )
                for each in self._runs.values()
            }
        except BaseException:
            pool.close()
            raise
        tokens = {each["run"]: each["token"] for each in settings.partners}
        tokens[run] = settings.token
        contacts = self._contacts()
        for each, path in contacts.items():
            if config.live_page:
                page = self._pages[each] = analysis.open_live_page(pool.client, each)
                self.services.warning("live page on %s: %s", socket.gethostname(), page)
            self._publish(config, each, tokens[each], endpoints[each], path)
        return {
            "contacts": {port: str(contacts[each]) for port, each in self._runs.items()},
            "pool": _address(pool.client, config),
        }

    def restart(
        self, timestamp: float = 0.0, run: str = "", run_dir: str = "", **keywords: Any
    ) -> dict[str, Any]:
        """The same, with the state of the analysis from a checkpoint."""
        from ips_components.analysis.checkpoint import FILE

        root = ips_compat.run_config(self.services).restart_root
        self.services.get_restart_files(root, timestamp, [FILE])
        self._state = str(Path(self.services.get_working_dir(), FILE))
        return self.init(timestamp, run, run_dir, **keywords)

    def checkpoint(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Keep the state that the analysis returned, if it did."""
        from ips_components.analysis.checkpoint import FILE

        if self._new_state:
            shutil.copy(self._new_state, Path(self.services.get_working_dir(), FILE))
            self.services.save_restart_files(timestamp, [FILE])

    def step(self, timestamp: float = 0.0, **keywords: Any) -> dict[str, Any]:
        """Wait for the analysis and for the simulation's goodbye; return what came out.

        Returns
        -------
        dict
            ``results`` (path), ``variables`` and ``contract`` as from the analysis task.

        Raises
        ------
        TaskPoolError
            When the analysis raised, or its pool was lost.
        """
        from ips_components import analysis
        from ips_components.report import Progress, contract_table

        config = self._config()
        pool = ips_compat.running_pool(self.services, POOL)
        if config.source:
            # No ranks and no receivers: nobody to watch, and no block to account for.
            pool.wait_for_tasks()
            leave_notice(self._run_dir, COORDINATOR, {"ledger": {"closed": True}})
            return self._finished(config, timestamp)
        watches = [
            Watch(pool.client, run, self._run_dir, about(port), config)
            for port, run in self._runs.items()
        ]
        events = ProgressEvents(self.services)
        told: list[str] = []
        with Progress(quiet=not config.progress) as progress:
            for page in self._pages.values():
                progress.note(f"live page on {socket.gethostname()}: {page}")

            def look(interval: float = ASK) -> None:
                for watch in watches:
                    watch.look(interval)
                if config.on_analytics_loss == "abort":
                    end_together(dict(zip(self._runs, watches, strict=True)))
                terms = [watch.terms for watch in watches]
                if not told and None not in terms:
                    told.append(contract_table([row for rows in terms for row in rows or ()]))
                    progress.note(told[0])
                    self.services.info(told[0])
                state = together(watch.state for watch in watches)
                progress.update(state)
                events.update(state)

            pool.on_poll = look
            try:
                for error in pool.wait_for_tasks().values():
                    for watch in watches:
                        watch.fail("analysis", ips_compat.describe(error))
                # The receivers stay until all ranks have closed their bridges.
                while not all(watch.over for watch in watches):
                    pool.check()
                    look(_GOODBYE)
                    time.sleep(_GOODBYE)
                events.end(together(watch.state for watch in watches))
            except BaseException:
                events.end(together(watch.state for watch in watches), failed=True)
                raise
            finally:
                with suppress(Exception):  # a pool that is lost knows nothing any more
                    records = {
                        port: analysis.run_record(pool.client, run, within=_ANSWER)
                        for port, run in self._runs.items()
                    }
                    leave_notice(self._run_dir, COORDINATOR, one_record(records))
                self._withdraw()
        return self._finished(config, timestamp)

    def _finished(self, config: AnalyticsConfig, timestamp: float) -> dict[str, Any]:
        """Take what the analysis returned, and stage files."""
        summary: dict[str, Any] = self.services.get_finished_tasks(POOL)[TASK]
        self._new_state = summary.get("checkpoint", "")
        if config.output_files:
            self.services.stage_output_files(
                timestamp, list(config.output_files), save_plasma_state=False
            )
        return summary

    def finalize(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """End what is left of the pool."""
        self.terminate_pool()

    def terminate_pool(self) -> None:
        """End the pool when it was not gathered."""
        if POOL in self.services.task_pools:
            self.services.remove_task_pool(POOL)
        self._withdraw()

    # --- internals ------------------------------------------------------------------------------

    def _config(self) -> AnalyticsConfig:
        run = ips_compat.run_config(self.services)
        section = ips_compat.section_of(self)
        return next(each for each in run.analytics if each.section == section)

    def _contacts(self) -> dict[str, Path]:
        """Path of the contact file of each run."""
        return {run: self._run_dir / contact_file(run) for run in self._runs.values()}

    def _withdraw(self) -> None:
        """Take the contact files away: nobody shall call any more, and they hold secrets."""
        for path in self._contacts().values():
            path.unlink(missing_ok=True)

    def _publish(
        self,
        config: AnalyticsConfig,
        run: str,
        token: str,
        endpoints: list[dict[str, Any]],
        path: Path,
    ) -> None:
        """Write the contact file of a run."""
        from ips_components.wire import contact

        known = contact.Endpoint.__dataclass_fields__
        contact.write(
            path,
            contact.Contact(
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
                    "on_analytics_loss": config.on_analytics_loss,
                },
                live_page=self._pages.get(run, ""),
                tls=self._certificates(config),
            ),
        )

    def _certificates(self, config: AnalyticsConfig) -> Any:
        """Where ranks find the certificates that Dask uses, if it does."""
        from ips_components.wire import contact

        if config.security != "tls":
            return None
        credentials = self.services.task_pools[POOL].credentials
        own = str(credentials.certificate)
        return contact.Certificates(authority=own, certificate=own, key=str(credentials.key))

    def _settings(self, config: AnalyticsConfig) -> Any:
        """Settings of the run; those of further simulations are its partners."""
        if len(self._runs) < 2:
            return self._settings_of(config, self._run, config.arrays)
        first, *others = [
            self._settings_of(
                config,
                run,
                tuple(each for each in config.arrays if each.simulation in ("", port)),
                simulation=port,
                memory_share=config.memory_share / len(self._runs),
            )
            for port, run in self._runs.items()
        ]
        return replace(first, partners=tuple(each.to_dict() for each in others))

    def _settings_of(
        self, config: AnalyticsConfig, name: str, mine: tuple[ArrayConfig, ...], **changes: Any
    ) -> Any:
        from ips_components.coordination import RunSettings
        from ips_components.wire.contact import new_token

        run = ips_compat.run_config(self.services)
        described = [array.description(run.times.n_steps) for array in mine]
        arrays = tuple(each for each in described if each is not None)
        suffix = ".nc" if config.results_format == "netcdf" else ".zarr"
        return RunSettings(
            run=name,
            token=new_token(),
            analysis=config.analysis,
            n_receivers=config.n_receivers,
            parameters=config.analysis_args,
            arrays=arrays or None,
            decompositions={a.name: a.decomposition for a in config.arrays if a.decomposition},
            halos={a.name: a.halo for a in config.arrays if a.halo},
            chunks={a.name: a.chunks for a in config.arrays if a.chunks},
            policies={a.name: a.policy for a in config.arrays},
            results=str(self._run_dir / (config.results or f"results{suffix}")),
            results_format=config.results_format,
            run_dir=str(self._run_dir),
            task_log=str(self._run_dir / task_log_file(name)) if config.task_log else "",
            n_steps=run.times.n_steps,
            deadlines=config.deadlines,
            on_analytics_loss=config.on_analytics_loss,
            replay_steps=config.replay_steps,
            lanes=config.lanes,
            security=config.security,
            checkpoint=self._state,
            **{"memory_share": config.memory_share, **changes},
        )

    def _prepare_environment(self, config: AnalyticsConfig) -> None:
        """Let the workers find the analysis beside the config; this process is our own."""
        path = [config.input_dir, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        os.environ["PYTHONPATH"] = os.pathsep.join(each for each in path if each)
        ips_compat.prepare_launcher(ips_compat.run_config(self.services).oversubscribe)
        # A worker that dies must not take the others with it, whatever the site's default is.
        os.environ["SLURM_KILL_BAD_EXIT"] = "0"

    def _submit(self, config: AnalyticsConfig, settings: Any) -> None:
        from ips_components.coordination import run_plugin

        services = self.services
        plain, source = settings.to_dict(), config.source

        def analysis() -> dict[str, Any]:
            """IPS would turn arguments into text, and write the run's secret into its log.

            What it needs is imported where it runs, not where its graph is only passed on.
            """
            from ips_components.analysis import replay, run_analysis

            return replay(plain, source) if source else run_analysis(plain)

        services.create_task_pool(POOL)
        pool = services.task_pools[POOL]
        pool.secrets = [*self._contacts().values(), self._run_dir / TLS]
        if config.security == "tls":
            pool.credentials = ips_compat.make_credentials(self._run_dir / TLS)
        services.add_task(POOL, TASK, 1, services.get_working_dir(), analysis)
        services.submit_tasks(
            POOL,
            use_dask=True,
            dask_nodes=config.dask_nodes,
            dask_ppw=config.dask_ppw,
            use_shifter=config.use_shifter,
            dask_worker_plugin=self._with_others(config, None if source else run_plugin(settings)),
            dask_worker_per_gpu=config.dask_worker_per_gpu,
        )

    def _with_others(self, config: AnalyticsConfig, plugin: Any) -> Any:
        """Put the worker plugins that the config names beside ours."""
        if config.worker_plugins is None:
            return plugin
        from ips_components.plugins import PluginStack

        sys.path.insert(0, config.input_dir)  # this process is the component's own
        module, _, function = config.worker_plugins.partition(":")
        others = getattr(import_module(module), function)(self.services.get_working_dir())
        others = list(others) if isinstance(others, (list, tuple)) else [others]
        return PluginStack(others if plugin is None else [plugin, *others])


def _address(client: Any, config: AnalyticsConfig) -> dict[str, Any]:
    """Where a pool's scheduler is, and what it is to compute."""
    dashboard = client.scheduler_info(n_workers=0)["services"].get("dashboard")
    return {
        "analysis": config.analysis,
        "scheduler": client.scheduler.address,
        "dashboard": client.dashboard_link if dashboard else None,
    }
