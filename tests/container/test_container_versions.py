"""A client outside and a pool inside: the same versions pass, others are refused by name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path

import container_image
import pytest
from container_image import OTHER
from distributed import Client

from ips_components.errors import UnsupportedVersion
from ips_components.ips_compat.container import check_versions

# Dask's own warning counts every difference, also that of 3.11.7 and 3.11.2.
pytestmark = pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")


@contextmanager
def running(*command: str) -> Iterator[None]:
    """A process for the time of a block; it is killed, and so is all that it runs inside."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def pool(shifter: Path, tmp_path: Path):
    """Return a context manager: a client of a scheduler and one worker that run in an image."""

    @contextmanager
    def pool(image: str) -> Iterator[Client]:
        file = str(tmp_path / "scheduler.json")
        inside = ("shifter", f"--image={image}", "python", "-m")
        with ExitStack() as stack:
            stack.enter_context(
                running(
                    *inside, "distributed.cli.dask_scheduler", "--scheduler-file", file,
                    "--port", "0", "--no-dashboard", "--host", "127.0.0.1",
                )
            )  # fmt: skip
            stack.enter_context(
                running(
                    *inside, "distributed.cli.dask_worker", "--scheduler-file", file,
                    "--no-dashboard", "--no-nanny", "--nthreads", "1",
                )
            )  # fmt: skip
            client = stack.enter_context(Client(scheduler_file=file, timeout=60))
            client.wait_for_workers(1, timeout=60)
            yield client

    return pool


def test_equal_versions_pass_and_functions_run_inside(pool):
    with pool("ips") as client:
        check_versions(client)
        assert client.submit(Path.exists, Path(container_image.WITNESS)).result(timeout=30)
        assert not Path(container_image.WITNESS).exists()


def test_other_versions_inside_are_refused_with_both_named(pool, base, images):
    others = [f"{package}=={OTHER}" for package in ("dask", "distributed")]
    with container_image.image_with(base, *others) as root:
        (images / "other").symlink_to(root)
        with pool("other") as client, pytest.raises(UnsupportedVersion) as refused:
            check_versions(client)
        (images / "other").unlink()
    for package in ("dask", "distributed"):
        both = f"{package} is {metadata.version(package)} outside, but {OTHER} inside (scheduler, "
        assert both in str(refused.value)
    assert "ips_components is 0.1.0 outside, but not installed inside" in str(refused.value)
