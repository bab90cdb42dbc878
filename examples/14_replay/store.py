"""Store what heat2d.py has written by --posthoc as Zarr, with names and units.

python store.py run/temperature.npy run/field.zarr
"""

import sys

import numpy as np
import xarray as xr

source, target = sys.argv[1:]
field = np.load(source, mmap_mode="r")
temperature = xr.DataArray(
    field,
    dims=("time", "y", "x"),
    coords={"time": np.arange(len(field))},
    attrs={"units": "K", "long_name": "temperature above ambient"},
)
temperature.to_dataset(name="temperature").chunk(time=10).to_zarr(target, consolidated=False)
