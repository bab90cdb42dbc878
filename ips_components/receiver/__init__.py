"""The bridge's peer inside a Dask worker: sockets, threads, chunk assembly, credit. No Dask."""
