"""Checkpoints of the analytics in the middle of a time loop, and going on from them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ips_components.config import AnalyticsConfig, RunConfig
from ips_components.errors import ConfigError
from ips_components.ips.analytics_pool import AnalyticsPool

_POSITION = "analysis_position.json"
_ANSWER = 5.0


@dataclass(frozen=True, slots=True)
class LoopState:
    """Where the time loop of an analytics begins: at its start, or where a checkpoint was taken.

    Parameters
    ----------
    position
        ``first_step``, ``first_launch`` and ``published``; None at the start.
    windows
        File with the state of the windows; empty where there is none.
    """

    position: dict[str, int] | None = None
    windows: str = ""

    @classmethod
    def restored(cls, services: Any, run: RunConfig, config: AnalyticsConfig) -> "LoopState":
        """Take the files of the checkpoint of RESTART_TIME.

        Raises
        ------
        ConfigError
            When it has no state of the analytics.
        """
        from ips_components.analysis.window_checkpoints import FILE

        stamp, work = run.checkpoint_time(), Path(services.get_working_dir())
        kept = Path(run.restart_root, "restart", f"{stamp:.3f}", _name(services))
        if not (kept / _POSITION).is_file():
            raise ConfigError(
                f"{run.file}, RESTART_TIME: the checkpoint {stamp:g} in {run.restart_root} has no "
                f"state of [{config.section}] ({kept / _POSITION} is missing); the driver must "
                f"pass {config.port} to services.checkpoint_components"
            )
        position = json.loads((kept / _POSITION).read_text())
        names = [_POSITION, *([FILE] if position.pop("windows") else [])]
        services.get_restart_files(run.restart_root, stamp, names)
        return cls(position, str(work / FILE) if FILE in names else "")

    def keep(self, services: Any, pool: AnalyticsPool, timestamp: Any) -> None:
        """Have the analysis save its windows, and put them into IPS's checkpoint."""
        from ips_components.analysis.coordinator_client import call
        from ips_components.analysis.window_checkpoints import FILE

        limit, work = pool.config.step_time_out, Path(services.get_working_dir())
        position = call(
            pool.running.client, "checkpoint", pool.run, timeout=limit, within=2 * limit + _ANSWER
        )
        saved = str(pool.run_dir / FILE) if position["windows"] else self.windows
        position["windows"] = bool(saved)
        if saved and Path(saved) != work / FILE:
            shutil.copy(saved, work / FILE)
        (work / _POSITION).write_text(json.dumps(position))
        services.save_restart_files(timestamp, [_POSITION, *([FILE] if saved else [])])


def _name(services: Any) -> str:
    """Name of the component's folder in a checkpoint, as IPS makes it."""
    config = services.component_ref.config
    return "_".join([config["CLASS"], config["SUB_CLASS"], config["NAME"]])
