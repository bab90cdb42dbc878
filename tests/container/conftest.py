"""Fixtures of the container tests: a root file system of its own behind a `shifter` command."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import container_image
import pytest
from container_runs import PLATFORM

HERE = Path(__file__).parent
#: Where the slow part of the image is kept between sessions; pytest's own cache by default.
CACHE_VARIABLE = "IPS_COMPONENTS_IMAGE_CACHE"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this directory; skip it, and say why, where no container can run."""
    missing = container_image.missing_programs()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.container)
            # The first of them builds the image.
            item.add_marker(pytest.mark.timeout(900, func_only=False))
            if missing:
                reason = f"{', '.join(missing)} not found: install bubblewrap and debootstrap"
                item.add_marker(pytest.mark.skip(reason=reason))
            elif os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="debootstrap must run as root"))


@pytest.fixture(scope="session")
def base(pytestconfig: pytest.Config) -> Path:
    """Debian, Python and the dependencies."""
    chosen = os.environ.get(CACHE_VARIABLE)
    cache = Path(chosen) if chosen else pytestconfig.cache.mkdir("ips-components-images")
    root = container_image.base_image(cache)
    inside = container_image.python_version(root)
    outside = f"{sys.version_info.major}.{sys.version_info.minor}"
    if inside != outside:
        pytest.skip(f"Python is {inside} in the image and {outside} here: functions cannot cross")
    return root


@pytest.fixture(scope="session")
def images(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directory of images: ``ips`` has the package and the versions that run outside."""
    directory = tmp_path_factory.mktemp("images")
    with container_image.session_image(base) as root:
        (directory / "ips").symlink_to(root)
        yield directory


@pytest.fixture
def shifter(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the command on PATH; the image is ``ips`` and `tmp_path` is shared with the container."""
    command = HERE / "bin/shifter"
    path = [str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("SHIFTER_IMAGES", str(images))
    monkeypatch.setenv("SHIFTER_IMAGE", "ips")
    monkeypatch.setenv("SHIFTER_SITE_VOLUMES", str(tmp_path))
    assert shutil.which("shifter") == str(command)
    return command


@pytest.fixture
def workspace(shifter: Path, tmp_path: Path) -> Path:
    """A user's directory: the example, and a platform of one node."""
    shutil.copytree(HERE.parents[1] / "examples/shifter", tmp_path / "examples/shifter")
    (tmp_path / "platform.conf").write_text(PLATFORM)
    return tmp_path
