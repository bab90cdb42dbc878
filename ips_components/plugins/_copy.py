"""Take files out of a node's temporary file system when its Dask worker ends."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin


class CopyAtTeardown(WorkerPlugin):  # type: ignore[misc]
    """Copies all files below a directory when the worker closes.

    A node's temporary file system (Shifter's ``perNodeCache``, ``/tmp``) is gone after the job.
    Each file appears in the target complete or not at all. When tasks of several workers write
    files of the same name, say ``per_worker=True``.

    Parameters
    ----------
    tmp_dir
        Directory on the worker's node.
    target_dir
        Where to copy to; made if it does not exist. Must be visible to the worker.
    per_worker
        Copy into a sub-directory named after the worker.
    name
        Of the plugin in Dask.
    """

    def __init__(
        self,
        tmp_dir: str | os.PathLike[str],
        target_dir: str | os.PathLike[str],
        per_worker: bool = False,
        name: str = "copy-at-teardown",
    ) -> None:
        self.tmp_dir = Path(tmp_dir)
        self.target_dir = Path(target_dir)
        self.per_worker = per_worker
        self.name = name

    async def teardown(self, worker: Any) -> None:
        """Copy, in a thread, so that the worker can still talk to others meanwhile."""
        target = self.target_dir / worker_word(worker) if self.per_worker else self.target_dir
        await asyncio.to_thread(copy_tree, self.tmp_dir, target)


def worker_word(worker: Any) -> str:
    """Name of a worker as a part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in str(worker.id))


def copy_tree(source: Path, target: Path) -> int:
    """Copy all regular files below *source*, each atomically; return how many there were.

    Files that vanish meanwhile are passed over. The target may be below the source.
    """
    count = 0
    for path in list(regular_files(source, target)):
        try:
            copy_file(path, target / path.relative_to(source))
        except FileNotFoundError:
            if path.exists():
                raise
            continue
        count += 1
    return count


def regular_files(source: Path, without: Path) -> Iterator[Path]:
    """Regular files below a directory in a fixed order, those below *without* left out."""
    for directory, names, files in os.walk(source):
        here = Path(directory)
        names[:] = sorted(name for name in names if here / name != without)
        for name in sorted(files):
            path = here / name
            if path.is_file() and not path.is_symlink():
                yield path


def copy_file(source: Path, target: Path) -> None:
    """Copy one file with its times; the target appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    try:
        shutil.copy2(source, partial)
        Path(partial).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(partial).unlink()
        raise
