"""Models of the analysis as messages, and how many of them are kept."""

import numpy as np
import pytest

from ips_components.bridge.mailbox import Mailbox
from ips_components.errors import ProtocolError
from ips_components.receiver import bulletin
from ips_components.wire.values import decode, encode, encode_model


def test_the_list_of_arrays_comes_last():
    messages = encode_model("net", {"w": np.ones((2, 3), "f4"), "b": np.arange(2)}, 7)
    assert [(each.name, each.step) for each in messages] == [("net/w", 7), ("net/b", 7), ("net", 7)]
    assert decode(messages[-1]) == {"arrays": ["w", "b"]}
    np.testing.assert_array_equal(decode(messages[0]), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "model 'net' has no arrays"),
        ({"w": np.ones(2, complex)}, "array 'w': expected a name and real numbers, got complex128"),
        ({"w": np.broadcast_to(1.0, (8 << 20,))}, "more than 62914560; split it"),
    ],
)
def test_what_cannot_be_sent_is_refused(arrays, message):
    with pytest.raises(ProtocolError, match=message):
        encode_model("net", arrays, 0)


def test_ranks_keep_two_versions_and_receivers_a_bounded_number_of_bytes(monkeypatch):
    monkeypatch.setattr(bulletin, "MAX_FEEDBACK_BYTES", 300_000)
    box, board = Mailbox(abort_on_loss=False), bulletin.Bulletin()
    for version in range(5):
        for message in encode_model("net", {"w": np.full(10_000, version)}, version):
            box.add(message)
            board.add(message)
    assert box.latest("net/w", 2) is None
    assert box.latest("net/w", None).step == 4 and box.latest("net/w", 3).step == 3
    assert sum(len(each.data) for each in board._feedback) <= 300_000
    assert board._feedback[-1].step == 4
    board.add(encode("large", 0, np.zeros(100_000)))
    assert [each.name for each in board._feedback] == ["large"]
