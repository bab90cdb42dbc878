"""What the bridge asks of a communicator."""

import pytest

from ips_components.bridge import comm as communicator
from ips_components.errors import BridgeError


class Request:
    """An MPI request that is complete at the n-th look."""

    def __init__(self, looks):
        self.looks = looks

    def Test(self):
        self.looks -= 1
        return self.looks <= 0


class Comm:
    """The second of two ranks; what rank 0 broadcasts is given."""

    rank, size = 1, 2

    def __init__(self, outcome, looks=1):
        self.outcome, self.looks, self.calls = outcome, looks, []

    def Ibcast(self, buffer, root):
        self.calls.append(("notice", len(buffer), root))
        return Request(self.looks)

    def bcast(self, obj, root=0):
        self.calls.append("bcast")
        return self.outcome


def test_ranks_pause_between_looks_until_rank_0_has_its_answer(monkeypatch):
    pauses = []
    monkeypatch.setattr(communicator.time, "sleep", pauses.append)
    comm = Comm((True, "the contract"), looks=12)
    assert (
        communicator.from_rank_0(comm, lambda: pytest.fail("not the work of rank 1"))
        == "the contract"
    )
    assert comm.calls == [("notice", 1, 0), "bcast"]
    assert len(pauses) == 11
    assert pauses == sorted(pauses)
    assert pauses[-1] == communicator.LAST_PAUSE


def test_a_failure_of_rank_0_is_raised_after_the_wait():
    comm = Comm((False, BridgeError("rank 0 failed")))
    with pytest.raises(BridgeError, match="rank 0 failed"):
        communicator.from_rank_0(comm, lambda: None)
    assert comm.calls == [("notice", 1, 0), "bcast"]


def test_acomm_moduleunicator_without_requests_is_not_asked_for_one():
    class Plain:
        rank, size = 1, 2

        def bcast(self, obj, root=0):
            return True, 7

    assert communicator.from_rank_0(Plain(), lambda: None) == 7
