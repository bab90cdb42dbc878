"""The end of an analysis: results as they are computed, what is kept of them, what is missing."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from distributed import as_completed

from ips_components.analysis.checkpoint import save
from ips_components.analysis.coordinator_client import Coordinator
from ips_components.analysis.results import ResultStore, ResultsUnwritten
from ips_components.analysis.time_axes import TimesOf
from ips_components.coordination.settings import RunSettings
from ips_components.report.panels import FILE_NAME as PANELS
from ips_components.report.panels import write_panels

logger = logging.getLogger(__name__)


def completed_by_name(futures: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    """Yield futures as they end, with the names of all results that have the same key."""
    names: dict[Any, list[str]] = defaultdict(list)
    by_key = {}
    for name, future in futures.items():
        names[future.key].append(name)
        by_key[future.key] = future
    for future in as_completed(list(by_key.values()), raise_errors=False):
        yield names[future.key], future


def keep_results(
    store: ResultStore,
    values: dict[str, Any],
    errors: dict[str, BaseException],
    *,
    stored: Collection[str],
    coordinators: Mapping[str, Coordinator],
    settings: RunSettings,
) -> dict[str, Any]:
    """Write complete results, and the state of an analysis that has them all.

    Parameters
    ----------
    store
        Of the run.
    values
        Results by name.
    errors
        What failed, by result; results that cannot be written are added.
    stored
        Names of the results that workers write.
    coordinators
        By run, of all simulations: they know the physical times of the steps.
    settings
        Of the run: where the state is kept, and whether a figure is drawn.

    Returns
    -------
    dict
        ``results``, ``checkpoint`` and ``variables``, see `run_analysis`, and ``panels``: the
        ``path`` of the file from which the figure is drawn, or the ``fault`` for which there is
        none, or neither.
    """
    checkpoint = save(values, settings.run_dir if not errors else None)
    for name in errors.keys() & set(stored):
        store.discard(name)
    panels: dict[str, str] = {}
    keep_panels = partial(_keep_panels, Path(settings.run_dir) / PANELS, panels)
    wanted = settings.figure and not errors
    try:
        # The figure is drawn while results are written, if they are all here.
        store.write(values, _times(coordinators), keep_panels if wanted and not stored else None)
    except ResultsUnwritten as error:
        errors |= dict.fromkeys(error.results, error)
    store.finish()
    with store.opened() as groups:
        variables = store.summary(groups)
        if settings.figure and not errors and "path" not in panels:
            keep_panels(lambda: groups)
    missing = {name: each["missing"] for name, each in variables.items() if each.get("missing")}
    if missing:
        logger.warning("Values that are not a number (NaN), by result: %s", missing)
    kept = {"results": str(store.path), "checkpoint": checkpoint, "variables": variables}
    return {**kept, "panels": panels}


def _keep_panels(path: Path, kept: dict[str, str], groups: Callable[[], Any]) -> None:
    """Write what the figure shows of groups; note its path, or why there is no figure."""
    kept.clear()
    try:
        write_panels(groups(), path)
        kept["path"] = str(path)
    except Exception as error:  # no reason to fail a run
        kept["fault"] = f"{type(error).__name__}: {error}"


def _times(coordinators: Mapping[str, Coordinator]) -> TimesOf | None:
    """Return the function from steps to physical times; None if a coordinator is lost."""
    try:
        known = {run: each.times() for run, each in coordinators.items()}
    except Exception as error:  # results are worth more than their coordinates
        logger.warning("The physical times of the steps are not known: %r", error)
        return None
    return lambda run, steps: known[run].of(steps)


def incomplete(
    store: ResultStore,
    errors: Mapping[str, BaseException],
    total: int,
    computed: Collection[str],
) -> BaseException:
    """Return the first error, with what is missing and what was kept in a note."""
    name, error = next(iter(errors.items()))
    kept = ", ".join(sorted(set(computed) - errors.keys())) or "none"
    missing = ", ".join(sorted(errors))
    error.add_note(
        f"{len(errors)} of {total} results are missing, {name!r} first "
        f"({missing}); results kept in {store.path}: {kept}"
    )
    return error
