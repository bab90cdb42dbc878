"""Archive what tasks write on a node while they run, so that a cancelled job loses little."""

import asyncio
import contextlib
import io
import logging
import os
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

from ips_components.plugins._copy import regular_files, worker_word

logger = logging.getLogger(__name__)

_IN_MEMORY = 16 << 20


class ContinuousArchive(WorkerPlugin):  # type: ignore[misc]
    """Archives a directory of the worker's node every so often, and once more at the end.

    The archive ``<worker>_archive.tar.gz`` is written beside its place, read back and checked, and
    then renamed: whenever the worker or its node dies, the last good archive is there. Each worker
    has one of its own, since each node has a temporary file system of its own.

    Parameters
    ----------
    source
        Directory on the worker's node.
    target
        Directory of the archive; made if it does not exist.
    interval
        Seconds between the end of one archive and the beginning of the next.
    name
        Of the plugin in Dask.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        interval: float = 60.0,
        name: str = "continuous-archive",
    ) -> None:
        if interval <= 0:
            raise ValueError(f"interval must be > 0 seconds, got {interval}")
        self.source = Path(source)
        self.target = Path(target)
        self.interval = interval
        self.name = name

    def setup(self, worker: Any) -> None:
        """Start archiving."""
        self._archive = self.target / f"{worker_word(worker)}_archive.tar.gz"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_archiving, name=self.name, daemon=True)
        self._thread.start()

    async def teardown(self, worker: Any) -> None:
        """Write the last archive."""
        self._ended.set()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(write_archive, self.source, self._archive)

    def _keep_archiving(self) -> None:
        while not self._ended.wait(self.interval):
            try:
                write_archive(self.source, self._archive)
            except Exception:  # the next one may succeed; the last good one is still there
                logger.exception("No archive of %s this time", self.source)


def write_archive(source: Path, archive: Path) -> list[str]:
    """Write a checked archive of all files below *source*; return their names in it.

    A file that is written to meanwhile is archived as it was when it was read; one that vanishes
    is left out.

    Raises
    ------
    OSError
        When the archive does not read back as it was written, for instance on a full disk; the one
        that was there before stays.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial_name = tempfile.mkstemp(
        prefix=f".{archive.name}.", suffix=".partial", dir=archive.parent
    )
    partial = Path(partial_name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            sizes = _write(source, archive.parent, file)
            file.flush()
            os.fsync(file.fileno())
        if _read_back(partial) != sizes:
            raise OSError(f"the archive of {source} does not read back as it was written")
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    return list(sizes)


def _write(source: Path, without: Path, file: Any) -> dict[str, int]:
    sizes = {}
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
        for path in regular_files(source, without):
            name = str(path.relative_to(source))
            with contextlib.suppress(FileNotFoundError):
                sizes[name] = _add(tar, path, name)
    return sizes


def _add(tar: tarfile.TarFile, path: Path, name: str) -> int:
    """Add what can be read now of what is there now; return its size in bytes.

    The size must be known before the content, and the file may shrink or grow.
    """
    with path.open("rb") as original, tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
        member = tar.gettarinfo(arcname=name, fileobj=original)
        left = member.size
        while left and (block := original.read(min(left, 1 << 20))):
            left -= copy.write(block)
        member.size = copy.tell()
        copy.seek(0)
        tar.addfile(member, copy)
    return member.size


def _read_back(archive: Path) -> dict[str, int]:
    """Sizes by name, every byte decompressed and so checked against gzip's sum."""
    sizes = {}
    with tarfile.open(archive, mode="r:gz") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                continue
            length = 0
            while block := content.read(io.DEFAULT_BUFFER_SIZE * 64):
                length += len(block)
            sizes[member.name] = length
    return sizes
