"""What became of the blocks of one array that this rank has put."""

from __future__ import annotations

from ips_components.wire.messages import Counters


class Account:
    """The blocks of an array that were put and their bytes, by what became of them.

    The quick path counts here, hence plain attributes.

    Parameters
    ----------
    ordinal
        Of the array in the contract.
    """

    __slots__ = (
        "beyond",
        "delivered_blocks",
        "delivered_bytes",
        "dropped_blocks",
        "dropped_bytes",
        "lost_blocks",
        "lost_bytes",
        "ordinal",
        "skipped_blocks",
        "skipped_bytes",
    )

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.skipped_blocks = self.skipped_bytes = 0
        self.delivered_blocks = self.delivered_bytes = 0
        self.dropped_blocks = self.dropped_bytes = 0
        self.lost_blocks = self.lost_bytes = 0
        self.beyond = 0  # steps that were put beyond the last one of the contract

    def lose(self, blocks: int, nbytes: int) -> None:
        """Count as lost what was delivered and had no effect, as far as it was counted."""
        blocks, nbytes = min(blocks, self.delivered_blocks), min(nbytes, self.delivered_bytes)
        self.delivered_blocks -= blocks
        self.lost_blocks += blocks
        self.delivered_bytes -= nbytes
        self.lost_bytes += nbytes

    def numbers(self) -> list[int]:
        """Return the account so far as a frame carries it."""
        blocks = (
            self.skipped_blocks, self.delivered_blocks, self.dropped_blocks, self.lost_blocks,
        )  # fmt: skip
        nbytes = self.skipped_bytes, self.delivered_bytes, self.dropped_bytes, self.lost_bytes
        return [self.ordinal, sum(blocks), *blocks, sum(nbytes), *nbytes, self.beyond]

    def counters(self) -> Counters:
        """Return the account so far."""
        ordinal, *numbers = self.numbers()
        return Counters(ordinal, tuple(numbers[:5]), tuple(numbers[5:10]), numbers[10])  # type: ignore[arg-type]
