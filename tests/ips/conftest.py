"""Runs of ``ips.py`` with the components in ``parts``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workflows import Workflow


@pytest.fixture
def workflow(tmp_path: Path, leaves_nothing: Path) -> Iterator[Callable[..., Workflow]]:
    """Make a workflow of a driver and a worker; each does what is named, in its step."""

    def make(driver: str = "call_worker", worker: str = "nothing", **changes: Any) -> Workflow:
        part = {"MODULE": "parts", "NAME": "Part"}
        components = {
            "DRIVER": {**part, "ROLE": "driver", "STEP": driver, **changes.pop("DRIVER", {})},
            "WORKER": {**part, "ROLE": "worker", "STEP": worker, **changes.pop("WORKER", {})},
        }
        if "OTHER" in changes:
            components["OTHER"] = {**part, "ROLE": "other", **changes.pop("OTHER")}
        made.append(Workflow(tmp_path, components, **changes))
        return made[-1]

    made: list[Workflow] = []
    yield make
    for each in made:
        each.close()
