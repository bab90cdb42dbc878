"""Runs of the configs and examples as their users run them, in a folder of their own."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Coupled:
    """What a coupled run left behind."""

    directory: Path
    record: dict[str, Any]

    def results(self) -> xr.Dataset:
        path = Path(self.record["results"]["path"])
        opened = (
            xr.open_dataset(path)
            if path.suffix == ".nc"
            else xr.open_zarr(path, consolidated=False)
        )
        with opened:
            return opened.load()

    def account(self, array: str = "temperature") -> dict[str, int]:
        return self.record["ledger"]["arrays"][array]["bytes"]


class Workspace:
    """A folder with the same outline as the repository; runs go below it.

    Parameters
    ----------
    directory
        Gets copies of configs and examples, and the platform files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "platform").symlink_to(ROOT / "platform")
        unneeded = shutil.ignore_patterns("build", "run", "__pycache__")
        shutil.copytree(ROOT / "examples", directory / "examples", ignore=unneeded)
        (directory / "configs").mkdir()
        for config in (ROOT / "configs").glob("*.config"):
            (directory / "configs" / config.name).write_text(config.read_text())

    def change(self, config: str, *changes: tuple[str, str]) -> None:
        """Change a config; every text that is to be replaced must be there."""
        path = self.directory / config
        text = path.read_text()
        for old, new in changes:
            if old not in text:
                raise ValueError(f"{config} has no {old!r}")
            text = text.replace(old, new)
        path.write_text(text)

    def execute(self, *command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command in this folder, as in an activated environment."""
        return subprocess.run(
            command,
            cwd=self.directory,
            env={
                **os.environ,
                "PWD": str(self.directory),
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ips(self, *configs: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run ``ips.py`` on one or several configs."""
        return self.execute(
            "ips.py",
            "--config",
            ",".join(configs),
            "--platform",
            "platform/workstation.conf",
            timeout=timeout,
        )

    def coupled(self, *configs: str, timeout: float = 240) -> list[Coupled]:
        """Run coupled configs that must end well; what each left, in the same order."""
        ended = self.ips(*configs, timeout=timeout)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return [self.run_of(Path(config).stem) for config in configs]

    def run_of(self, name: str) -> Coupled:
        """The only run below ``run/<name>``."""
        (record,) = (self.directory / "run" / name).glob("run_*/run.json")
        return Coupled(record.parent, json.loads(record.read_text()))
