"""Fixtures of the Slurm tests: one real three-node cluster per session, one directory per run."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_memory import owned, waste_that_stays
from slurm_cluster import Job, SlurmCluster, missing_programs

REPOSITORY = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this directory; skip it, and say why, where Slurm cannot run."""
    here = Path(__file__).parent
    reason = _why_not()
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(300))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def _why_not() -> str | None:
    missing = missing_programs()
    if missing:
        return f"{', '.join(missing)} not found: install the packages slurm-wlm and munge"
    if os.geteuid() != 0:
        return "the daemons of Slurm start jobs as their users: run the tests as root"
    return None


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """Three idle nodes; see `SlurmCluster`."""
    # Not pytest's own directory: munged's socket needs a short path that others may traverse.
    root = Path(tempfile.mkdtemp(prefix="ips-slurm-"))
    slurm = SlurmCluster(root)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def slurm(cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, lent to one test: its jobs are ended and must leave nothing behind."""
    before, shared = len(cluster.jobs), owned()
    yield cluster
    jobs = cluster.jobs[before:]
    for job in jobs:
        job.end()
    for job in jobs:
        job.assert_nothing_left()
    left = waste_that_stays(shared, 10.0)
    assert not left, f"left in shared memory: {left}"


@pytest.fixture
def submit(slurm: SlurmCluster, tmp_path: Path):
    """Return a function that submits one IPS config from `tmp_path`, with its platform file."""

    def submit(
        config: str, *options: str, platform: str = "platform/slurm.conf", **env: str
    ) -> Job:
        return slurm.sbatch(
            REPOSITORY / "platform/slurm.sbatch",
            *options,
            cwd=tmp_path,
            arguments=(config, platform),
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **env,
        )

    return submit
