"""What Dask's nanny has to know about the process from which its workers are forked."""

from distributed import utils


def keep_forkserver() -> None:
    """Leave the list of what is read before a fork as it is.

    Dask would fill it with what its nanny has to read for that, pandas among it.
    """
    utils._forkserver_preload_set = True
