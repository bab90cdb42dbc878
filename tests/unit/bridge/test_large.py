"""Blocks of 2 GiB and more (``-m soak``: 7 GB of memory), and small limits instead."""

import numpy as np
import pytest
from _pair import agree, assembled, receivers

from ips_components.bridge import Bridge
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver import reading

LANES = [("tcp",), ("shm", "tcp")]


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: lanes[0])
def test_blocks_beyond_every_internal_limit(tmp_path, lanes, monkeypatch):
    """Strided and dense pieces that are many times the read-ahead, the scratch and the part."""
    monkeypatch.setattr(reading, "SCRATCH", 1000)
    monkeypatch.setattr(reading, "PART", 3000)
    spec = ArraySpec("t", "f4", (50, 40, 30), StepAxis(count=2))
    contract = agree(spec, chunks=(1, 50, -1, 7))
    field = np.random.default_rng(0).random((2, 50, 40, 30)).astype("f4")
    with receivers(tmp_path, contract, contact_options={"lanes": lanes}) as (file, _, sinks):
        with Bridge(contact=file) as bridge:
            for step in range(2):
                bridge.put("t", step, field[step])
        assert np.array_equal(assembled(contract, 0, sinks), field)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: lanes[0])
def test_a_block_of_more_than_2_gib(tmp_path, lanes):
    n = (1 << 31) + 4096
    spec = ArraySpec("t", "u1", (n // 4096, 4096), StepAxis(count=1))
    options = {"lanes": lanes}
    with receivers(tmp_path, agree(spec), budget=n, contact_options=options) as (file, _, (sink,)):
        block = np.zeros(spec.shape, "u1")
        block[::1000, 7] = np.arange(len(block[::1000])) % 251
        with Bridge(contact=file) as bridge:
            bridge.put("t", 0, block)
        value = sink.chunks.pop((0, 0))
        assert value.nbytes == n
        assert np.array_equal(value[0, ::1000, 7], block[::1000, 7])
        assert value[0, -1].sum() == block[-1].sum()
