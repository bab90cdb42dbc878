"""What ranks that connect late are told of attached runs."""

from ips_components.receiver.bulletin import Bulletin
from ips_components.wire import framing
from ips_components.wire import messages as m
from ips_components.wire.contact import Contact


def invitation(run):
    return m.Attach(Contact(run, "ab" * 32, ()).to_bytes())


def told(board):
    """The messages about attached runs in the greeting of a rank."""
    greeting = board.greeting(m.Hello("r", 0, 1, 1, 1), m.Welcome(), ())
    return [each for each in framing.Decoder().feed(greeting) if isinstance(each, m.Attach)]


def test_a_run_that_ends_while_a_launch_begins_is_awaited_by_no_rank():
    board = Bulletin()
    for run in ("r~1", "r~2"):
        board.add(invitation(run))
    board.begin_launch(1, (4, 1, m.ContractIs.MANY_LAUNCHES | 2 << m.ContractIs.AWAITED))
    assert board.forget("r~1") == framing.pack(m.Attach.ended("r~1"))
    assert told(board) == [invitation("r~2"), m.Attach.ended("r~1")]
    board.add(invitation("r~3"))
    assert board.forget("r~3") == b""  # which has come since, so that no rank waits for it
    board.begin_launch(1, (8, 2, m.ContractIs.MANY_LAUNCHES | 1 << m.ContractIs.AWAITED))
    assert told(board) == [invitation("r~2")]
