"""Numbers that an analysis sends arrive as they are, or are refused."""

import numpy as np
import pytest

from ips_components.errors import ProtocolError
from ips_components.wire.values import decode, encode


@pytest.mark.parametrize(
    "value",
    [
        np.uint64(7),
        np.uint64(2**63 - 1),
        np.array([], np.uint64),
        np.array([1, 2**63 - 1], np.uint64),
        np.int64(-(2**63)),
        np.uint32(2**32 - 1),
        True,
    ],
)
def test_integers_arrive_as_they_are(value):
    np.testing.assert_array_equal(decode(encode("n", 0, value)), value)


@pytest.mark.parametrize("value", [2**63, np.uint64(2**63), np.array([1, 2**64 - 1], np.uint64)])
def test_integers_beyond_64_bits_with_a_sign_are_refused(value):
    with pytest.raises(ProtocolError, match=r"'n': \d+ is larger than 9223372036854775807"):
        encode("n", 0, value)
