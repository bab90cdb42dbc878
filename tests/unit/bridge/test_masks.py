"""A mask does not travel: masked cells are filled as declared, or the put is refused."""

import numpy as np
import pytest
from _pair import agree, assembled, receivers

from ips_components._deisa_bridge import Bridge as DeisaBridge
from ips_components.bridge import Array, Bridge, Rows
from ips_components.errors import BridgeError
from ips_components.model.spec import ArraySpec, StepAxis

REFUSED = r"array '{}' at step 0 on rank 0: 2 cells are masked, .* fill_value="
FILLED = [-1.0, None]


def masked(cells):
    """These cells without the two largest ones, which must not be seen."""
    return np.ma.masked_greater(cells, np.sort(cells, axis=None)[-3])


def put(tmp_path, fill_value, array, block, **options):
    """What arrives of a put into an array with this fill value; None if it is refused."""
    described = Array(**array, steps=1, fill_value=fill_value)
    specs = [each.spec for each in (described, described.table) if each is not None]
    with receivers(tmp_path, agree(*specs)) as (file, _, sinks):
        with Bridge(contact=file, arrays=[described]) as bridge:
            if fill_value is None:
                with pytest.raises(BridgeError, match=REFUSED.format(described.name)):
                    bridge.put(described.name, 0, block, **options)
                return None
            bridge.put(described.name, 0, block, **options)
        sinks[0].wait(lambda: (0, 0) in sinks[0].chunks)
        return sinks[0].chunks[0, 0][0]


CELLS = np.arange(12.0, dtype="f4").reshape(4, 3)


@pytest.mark.parametrize("fill_value", FILLED)
@pytest.mark.parametrize(
    ("rows", "index"),
    [
        (Rows(masked(CELLS)), [0, 1, 2, 3]),
        (Rows(masked(CELLS), [3, 0]), [3, 0]),
        ([Rows(CELLS[:2]), Rows(masked(CELLS)[2:])], [0, 1, 2, 3]),
    ],
    ids=["all", "list", "parts"],
)
def test_rows(tmp_path, fill_value, rows, index):
    array = {"name": "x", "shape": (-1, 3), "dtype": "f4", "ragged": True}
    found = put(tmp_path, fill_value, array, rows)
    if found is not None:
        assert np.array_equal(found, masked(CELLS).filled(-1)[index])


@pytest.mark.parametrize("fill_value", FILLED)
def test_rows_of_single_cells(tmp_path, fill_value):
    array = {"name": "x", "shape": (4,), "dtype": "f4", "ids": True}
    rows = Rows(masked(CELLS[:, 0]), [3, 2, 1, 0])
    assert rows.nbytes == 16
    found = put(tmp_path, fill_value, array, rows, ids=range(4))
    if found is not None:
        assert found.tolist() == [-1, -1, 3, 0]


@pytest.mark.parametrize("fill_value", FILLED)
def test_blocks_of_an_adaptive_mesh(tmp_path, fill_value):
    array = {"name": "rho", "shape": (-1, 3), "dtype": "f4", "ragged": True, "levels": 2}
    places = 3 * np.arange(4)[:, None]
    found = put(tmp_path, fill_value, array, masked(CELLS), levels=[0] * 4, places=places)
    if found is not None:
        assert np.array_equal(found, masked(CELLS).filled(-1))


def test_programs_for_deisa(tmp_path):
    """They cannot declare what masked cells become."""
    spec = ArraySpec("t", "<f4", (4, 3), StepAxis(count=2))
    contract = agree(spec)
    described = {"t": {"sizes": [2, 4, 3], "subsizes": [1, 4, 3], "starts": [0, 0, 0]}}
    with receivers(tmp_path, contract) as (file, _, sinks):
        with DeisaBridge(str(file), 1, 0, described, {"t": "f4"}) as bridge:
            with pytest.raises(BridgeError, match=REFUSED.format("t")):
                bridge.publish_data(masked(CELLS)[None], "t", 0)
            with pytest.raises(BridgeError, match="a step must be a whole number"):
                bridge.publish_data(CELLS, "t", 0.5)
            bridge.publish_data(np.ma.masked_array(CELLS, False), "t", 0)
            bridge.publish_data(CELLS, "t", np.int32(1))
        assert np.array_equal(assembled(contract, 0, sinks), [CELLS, CELLS])
