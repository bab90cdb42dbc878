"""``ips-components attach`` and ``peek``: look into a run that was started elsewhere."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ips_components.errors import ConfigError, ContractError

_WHERE = "directory of the run, its contact file, or SIM_ROOT (the newest run that is under way)"
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

    with attach_to(options.where) as run:
        for spec in run.specs:
            print(f"{spec.name}: {spec.dtype} {spec.shape} {spec.attrs.get('units', '')}".rstrip())
        try:
            with Progress() as progress:
                while True:
                    state = run.progress()
                    progress.update(state)
                    if state["phase"] in ("ended", "failed"):
                        break
                    time.sleep(0.5)
        except KeyboardInterrupt:
            return 0
        print(f"{run.id}: {state['phase']}")
        return int(state["phase"] == "failed")


def peek(options: argparse.Namespace) -> int:
    """Write one step."""
    from ips_components.live import attach as attach_to

    if options.output.suffix not in _SUFFIXES:
        raise ConfigError(
            f"--output: expected a file that ends with {', '.join(_SUFFIXES)}, got {options.output}"
        )
    region = parse_region(options.region)
    with attach_to(options.where) as run:
        if options.step == "latest":
            found = run.latest(options.array, *region)
        else:
            try:
                step = int(options.step)
            except ValueError:
                raise ConfigError(
                    f"--step: expected a number or latest, got {options.step!r}"
                ) from None
            found = run.compute(
                lambda arrays: arrays[options.array][(slice(0, 1), *region)].to_xarray(),
                steps=slice(step, step + 1),
            )[0]
        write(found, options.output)
        step = int(found[run.time_of(options.array)])
    print(f"{options.array} at step {step}: {options.output}")
    return 0


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
