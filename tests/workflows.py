"""Real runs of ``ips.py`` for tests: config and platform files made to measure."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PARTS = Path(__file__).parent / "ips" / "parts"
BIN = Path(sys.executable).parent

_COMMON = {
    "CLASS": "test",
    "SUB_CLASS": "",
    "NPROC": 1,
    "BIN_PATH": "",
    "INPUT_FILES": "",
    "OUTPUT_FILES": "",
    "SCRIPT": "",
}


@dataclass
class Ended:
    """How a run ended."""

    status: int
    output: str
    log: str
    seconds: float

    @property
    def last_lines(self) -> str:
        """What a person sees last."""
        return "\n".join(self.output.strip().splitlines()[-8:])


@dataclass
class Workflow:
    """One config file and one platform file in a directory of their own.

    Parameters
    ----------
    directory
        Where everything is.
    components
        Values of the sections, by port; a port's section has its name.
    top, platform
        Further values of the config's top and of the platform file; None removes one.
    """

    directory: Path
    components: Mapping[str, Mapping[str, Any]]
    top: Mapping[str, Any] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)
    time_loop: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: "Sequence[Workflow]" = ()
    """Further workflows of the same call of ``ips.py``, with the platform file of this one."""
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def root(self) -> Path:
        return self.directory / "run"

    @property
    def config_file(self) -> Path:
        return self.directory / "test.config"

    @property
    def platform_file(self) -> Path:
        return self.directory / "test.conf"

    def write(self) -> None:
        """Write both files."""
        top = {
            "SIM_NAME": "test",
            "SIM_ROOT": self.root,
            "LOG_FILE": self.root / "test.log",
            "LOG_LEVEL": "INFO",
            "SIMULATION_MODE": "NORMAL",
            "USE_PORTAL": False,
            **self.top,
        }
        lines = _lines(top)
        lines += ["[PORTS]", f"NAMES = {' '.join(self.components)}"]
        for port in self.components:
            lines += [f"[[{port}]]", f"IMPLEMENTATION = {port}"]
        if self.time_loop:
            lines += ["[TIME_LOOP]", *_lines(self.time_loop)]
        for port, values in self.components.items():
            lines += [f"[{port}]", *_lines({**_COMMON, **values})]
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text("\n".join(lines) + "\n")
        platform = {
            "HOST": "",
            "MPIRUN": "eval",
            "NODE_DETECTION": "manual",
            "CORES_PER_NODE": 8,
            "SOCKETS_PER_NODE": 1,
            "NODE_ALLOCATION_MODE": "SHARED",
            **self.platform,
        }
        self.platform_file.write_text("\n".join(_lines(platform)) + "\n")

    def start(self, terminal: int | None = None) -> "subprocess.Popen[bytes]":
        """Start ``ips.py`` in a process group of its own, its output in a file or a terminal."""
        if not self.config_file.exists():
            self.write()
        path = os.pathsep.join([str(BIN), os.environ["PATH"]])
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        python_path = os.pathsep.join([str(PARTS), str(self.directory), *filter(None, given)])
        self.close()
        for each in self.beside:
            each.write()
        configs = [self.config_file.name, *(str(each.config_file) for each in self.beside)]
        options = ["--config", ",".join(configs), "--platform", self.platform_file.name]
        with (self.directory / "output.txt").open("wb") as output:
            self._process = subprocess.Popen(
                [BIN / "ips.py", *options],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output if terminal is None else terminal,
                stderr=subprocess.STDOUT,
                process_group=0,
                env={
                    **os.environ,
                    "PATH": path,
                    "PYTHONPATH": python_path,
                    "PWD": str(self.directory),
                    "PYTHONUNBUFFERED": "1",
                    **self.environment,
                },
            )
        return self._process

    def close(self) -> None:
        """End ``ips.py`` if a test did not come to that."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def wait(self, process: "subprocess.Popen[bytes]", timeout: float = 60.0) -> Ended:
        """Wait for ``ips.py``; a run that hangs is an error here, and is ended."""
        began = time.monotonic()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(
                f"ips.py hung for {timeout} s\n{self.output()}\n{self.log()}"
            ) from None
        return Ended(status, self.output(), self.log(), time.monotonic() - began)

    def run(self, timeout: float = 60.0) -> Ended:
        """Start and wait."""
        return self.wait(self.start(), timeout)

    def output(self) -> str:
        return (self.directory / "output.txt").read_text(errors="replace")

    def log(self) -> str:
        path = self.root / "test.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, text: str, timeout: float = 40.0) -> None:
        """Wait until a text is in the output."""
        deadline = time.monotonic() + timeout
        while text not in self.output():
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} did not come\n{self.output()}\n{self.log()}")
            time.sleep(0.05)


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {value}" for name, value in values.items() if value is not None]
