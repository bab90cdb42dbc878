"""``dask worker`` whose workers are forked from one process that has read their libraries.

::

    python -m ips_components.external.forked_workers MODULE,MODULE OPTION ...

Stock Dask starts each worker as a new interpreter, which reads the same libraries again: seconds of
a core before it takes its first task, for each worker, and again for one that replaces a worker
that died. Dask's setting ``distributed.worker.multiprocessing-method: forkserver`` avoids that, and
has to be in force here. The process from which workers are forked reads their libraries while
this one reads Dask's command; its parent has therefore set the variables that libraries
look at then, those of ``distributed.nanny.pre-spawn-environ``, already.
"""

from __future__ import annotations

import os
import sys
import tempfile
from multiprocessing import forkserver, util

METHOD = "distributed.worker.multiprocessing-method"
METHOD_VARIABLE = "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"
"""Dask's setting of how workers are started, and the variable that gives it."""

HASH_SEED = "6640"
"""As Dask's nanny sets it: workers find keys by their hashes, which must be the same in all."""

_LONGEST = 107 - len("/listener-12345678")
"""Bytes of a directory in which a Unix socket of `multiprocessing` has room."""


def start_forking(libraries: str) -> bool:
    """Start the process from which workers are forked.

    Parameters
    ----------
    libraries
        Modules to read there, separated by commas. What cannot be read is left to the workers.

    Returns
    -------
    bool
        False where the path of the directory for temporary files is too long for a Unix socket.
    """
    # Its socket lies with Dask's own files: our guard removes them however this process ends.
    tempfile.tempdir = os.environ.get("DASK_TEMPORARY_DIRECTORY")
    directory = util.get_temp_dir()
    tempfile.tempdir = None
    if len(os.fsencode(directory)) > _LONGEST:
        return False
    os.environ["IPS_COMPONENTS_WORKER_LIBRARIES"] = libraries
    os.environ["PYTHONHASHSEED"] = HASH_SEED
    forkserver.set_forkserver_preload([f"{__package__}._forked_libraries"])
    forkserver.ensure_running()
    return True


def main() -> None:
    """Be ``dask worker``."""
    if not start_forking(sys.argv.pop(1)):
        os.environ[METHOD_VARIABLE] = "spawn"
    from distributed.cli.dask_worker import main as dask_worker

    from ips_components.external._compat_nanny import keep_forkserver

    keep_forkserver()
    dask_worker()


if __name__ == "__main__":
    main()
