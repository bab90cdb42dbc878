"""``ips-components attach`` and ``peek``: look into a run that was started elsewhere."""

import argparse
import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import ConfigError, ContractError, IPSComponentsError

_WHERE = "directory of the run, its contact file, or SIM_ROOT (the newest run that is under way)"
_RECORD = 20.0  # seconds from the end of a run's scheduler to its record
_SUFFIXES = (".nc", ".npy", ".png", ".pdf", ".svg")


def add_subcommands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``attach`` and ``peek``."""
    parser = subparsers.add_parser(
        "attach",
        help="show the live progress of a run that is under way",
        description="Show what a run offers, and how far it is, until it ends or Ctrl-C.",
    )
    parser.set_defaults(function=attach)
    parser.add_argument("where", type=Path, metavar="RUN_DIR", help=_WHERE)
    parser = subparsers.add_parser(
        "peek",
        help="write one step of a run that is under way as a file or a picture",
        description="Wait for a step of an array and write it. Only what is written leaves the "
        "ranks.",
        epilog="example: ips-components peek SIM_ROOT temperature --region ::4,::4 -o now.png",
    )
    parser.set_defaults(function=peek)
    parser.add_argument("where", type=Path, metavar="RUN_DIR", help=_WHERE)
    parser.add_argument("array", metavar="ARRAY", help="name of the array")
    parser.add_argument(
        "--step", default="latest", metavar="STEP", help="a step to come, or latest (the next one)"
    )
    parser.add_argument(
        "--region",
        default="",
        metavar="REGION",
        help="slices or integers of the dimensions of space, with commas between",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"what to write: {', '.join(_SUFFIXES)}",
    )


def attach(options: argparse.Namespace) -> int:
    """Show progress until the end of the run; 1 if it has failed."""
    from ips_components.live import attach as attach_to
    from ips_components.report import Progress

    _silence_dask()
    with attach_to(options.where) as run:
        for spec in run.specs:
            print(f"{spec.name}: {spec.dtype} {spec.shape} {spec.attrs.get('units', '')}".rstrip())
        try:
            with Progress() as progress:
                phase = _follow(run, progress)
        except KeyboardInterrupt:
            return 0
        print(f"{run.id}: {phase}")
        return int(phase != "ended")


def _silence_dask() -> None:
    """Have Dask log nothing: that a run ends, and its scheduler with it, is no error."""
    import distributed  # noqa: F401  sets the levels of its loggers when it is imported

    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _follow(run: Any, progress: Any) -> str:
    """Show progress until the run has ended or failed; return which."""
    while True:
        try:
            state = run.progress()
        except (IPSComponentsError, OSError, TimeoutError):
            # Its scheduler ends soon after the simulation: between two looks.
            return _recorded(run.directory)
        progress.update(state)
        if state["phase"] in ("ended", "failed"):
            return str(state["phase"])
        time.sleep(0.5)


def _recorded(directory: Path) -> str:
    """Return how a run has ended, by its record, which it writes after its scheduler has ended."""
    from ips_components.report import read_record

    def read() -> str | None:
        with contextlib.suppress(OSError, ValueError):
            return "ended" if read_record(directory)["status"] == "ok" else "failed"
        return None

    return poll_until(read, Deadline(_RECORD), pause=0.1) or "its scheduler is gone"


def peek(options: argparse.Namespace) -> int:
    """Write one step."""
    from ips_components.live import attach as attach_to

    if options.output.suffix not in _SUFFIXES:
        raise ConfigError(
            f"--output: expected a file that ends with {', '.join(_SUFFIXES)}, got {options.output}"
        )
    region = parse_region(options.region)
    try:
        wanted = None if options.step == "latest" else int(options.step)
    except ValueError:
        raise ConfigError(f"--step: expected a number or latest, got {options.step!r}") from None
    with attach_to(options.where) as run:
        try:
            found = _one_step(run, options.array, wanted, region)
        except IndexError as error:
            shape = next((spec.shape for spec in run.specs if spec.name == options.array), ())
            raise ConfigError(
                f"--region: {options.region} does not fit array {options.array!r}, of which a step "
                f"has the shape {shape}: {error}"
            ) from None
        write(found, options.output)
        step = int(found[run.time_of(options.array)])
    print(f"{options.array} at step {step}: {options.output}")
    return 0


def _one_step(run: Any, name: str, step: int | None, region: tuple[slice | int, ...]) -> Any:
    """Return a step to come, as `LiveRun.latest` does; None: the next one."""
    if step is None:
        return run.latest(name, *region)
    found = run.compute(
        lambda arrays: arrays[name][(slice(0, 1), *region)].to_xarray(), steps=slice(step, step + 1)
    )
    return found[0]


def parse_region(text: str) -> tuple[slice | int, ...]:
    """Return slices and integers.

    >>> parse_region("::2, 3, 1:9")
    (slice(None, None, 2), 3, slice(1, 9, None))
    """
    found: list[slice | int] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            numbers = [int(each) if each.strip() else None for each in part.split(":")]
        except ValueError:
            raise ConfigError(f"--region: {part!r} is neither a number nor a slice") from None
        if len(numbers) > 3 or (len(numbers) == 1 and numbers[0] is None):
            raise ConfigError(f"--region: {part!r} is neither a number nor a slice")
        found.append(numbers[0] if len(numbers) == 1 else slice(*numbers))  # type: ignore[arg-type]
    return tuple(found)


def write(found: Any, path: Path) -> None:
    """Write an array to a file whose name says the format."""
    import numpy as np

    if path.suffix == ".npy":
        np.save(path, found.values)
        return
    if path.suffix == ".nc":
        plain = found.copy()
        plain.attrs = {k: v for k, v in found.attrs.items() if isinstance(v, str | int | float)}
        plain.to_netcdf(path)
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if found.ndim not in (1, 2):
        raise ContractError(
            f"a picture has 1 or 2 dimensions, got {found.ndim}: {found.dims}; give --region with "
            "integers for the others"
        )
    found.plot(ax=axes)
    figure.savefig(path)
    sys.stdout.flush()
