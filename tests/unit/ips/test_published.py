"""Files of published values: numbers, arrays and xarray's DataArrays over the steps."""

import pickle

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from ips_components.analysis.published_values import check_published
from ips_components.errors import ContractError
from ips_components.ips.published import to_dataset, write_files

PROFILE = xr.DataArray(
    [1.0, 2.0, 3.0], dims="r", coords={"r": [0.1, 0.2, 0.3]}, attrs={"units": "K"}
)


def published(step, values, known=np.nan, time=None):
    check_published(values)
    return step, pickle.dumps((time, values)), known


def test_values_of_any_kind_are_over_time(tmp_path):
    found = to_dataset(
        [
            published(0, {"peak": 1, "profile": PROFILE}, known=0.5),
            published(1, {"peak": 2, "modes": np.ones((2, 2))}),
            published(1, {"profile": 2 * PROFILE}),
            published(7, {"peak": 3.5}, known=0.5, time=9.0),
        ],
        3.0,
        "run",
    )
    write_files(found, tmp_path, ["a.nc", "b.nc"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "b.nc"]
    for name in ("a.nc", "b.nc"):
        with xr.open_dataset(tmp_path / name) as file:
            np.testing.assert_array_equal(file["time"], [0.5, 1.0, 9.0])
            np.testing.assert_array_equal(file["step"], [0, 1, 7])
            np.testing.assert_array_equal(file["peak"], [1, 2, 3.5])
            np.testing.assert_array_equal(file["profile"][1], [2, 4, 6])
            assert np.isnan(file["profile"][2]).all() and np.isnan(file["modes"][0]).all()
            np.testing.assert_array_equal(file["r"], PROFILE["r"])
            assert file["profile"].attrs == {"units": "K"}
            assert file.attrs == {"run": "run", "timestamp": "3.0"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"a": da.ones(3)}, "'a' is lazy; publish what is computed"),
        ({"step": 3}, "'step' is a coordinate"),
        ({"a": PROFILE.rename(r="time")}, "'a' has a dimension 'time'.* rename the dimension"),
        ({"r": PROFILE}, "'r' has a dimension 'r'"),
        ({"a": PROFILE.to_dataset(name="p")}, "'a' is a Dataset; publish its variables"),
        ({"a": None}, "'a' is of type object"),
        ({"a": 1j}, "'a' is of type complex128, which NetCDF does not have"),
    ],
)
def test_what_the_file_cannot_hold_is_refused_where_it_is_published(values, said):
    with pytest.raises(ContractError, match=said):
        check_published({"good": 1.0, **values})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"profile": PROFILE[:2]}, r"'profile' has shape \(2,\) at step 1 and \(3,\) at step 0"),
        ({"short": PROFILE.drop_vars("r")[:2]}, "do not fit into one file: .*'r'"),
    ],
)
def test_values_that_do_not_fit_together(other, said):
    with pytest.raises(ContractError, match=said):
        to_dataset([published(0, {"profile": PROFILE}), published(1, other)], 1.0, "run")
