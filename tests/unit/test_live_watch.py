"""Windows of a running simulation, where contracts fail and the simulation does not."""

from concurrent.futures import Future

import pytest

from ips_components.errors import SimulationLost
from ips_components.live.watch import Batch, Watch


class Contracts:
    """Opens contracts of two windows each, of which some fail: at once, or with their windows."""

    def __init__(self, *fates, then="over"):
        self.fates, self.then = list(fates), then
        self.over, self.opened, self.closed = False, 0, 0

    def open_windows(self, function, every, window, n, start, margin):
        fate = self.fates.pop(0) if self.fates else self.then
        self.over |= fate == "over"
        if fate != "well" and fate != "no contract":
            raise SimulationLost(fate)
        self.opened += 1
        first, windows = max(start, 0), []
        for step in (first, first + 1):
            future = Future()
            if fate == "well":
                future.set_result(step)
            else:
                future.set_exception(SimulationLost(fate))
            windows.append((range(step, step + 1), {"": future}, lambda found: found[""]))
        return Batch(None, windows, 2, first + 2)

    def close_windows(self, batch):
        self.closed += 1

    def is_over(self):
        return self.over


def test_a_contract_that_fails_alone_does_not_end_a_watch():
    """Its ranks may not have come in time, on a machine with much to do."""
    contracts = Contracts("well", "no contract", "did not open", "well")
    watch = Watch(contracts, len, 1, 1, None)
    assert [window.value for window in watch] == [0, 1, 4, 5]
    assert watch.left_out == 2
    assert contracts.opened == contracts.closed == 3


@pytest.mark.parametrize("fate", ["no contract", "did not open"])
def test_contracts_that_fail_again_and_again_do(fate):
    watch = Watch(Contracts("well", then=fate), len, 1, 1, None)
    assert [next(watch).value for _ in range(2)] == [0, 1]
    with pytest.raises(SimulationLost, match=fate):
        next(watch)


def test_the_end_of_the_simulation_ends_a_watch():
    watch = Watch(Contracts("well", "over"), len, 1, 1, None)
    assert [window.value for window in watch] == [0, 1]
    assert watch.left_out == 0
