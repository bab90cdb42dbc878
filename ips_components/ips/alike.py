"""Ranks that fail alike: what they say differs in the rank at most, and is said once."""

from __future__ import annotations

import re

_RANK = re.compile(r"\brank \d+", re.IGNORECASE)


def without_rank(text: str) -> str:
    """Return a message with the numbers of ranks left out, to compare it with another rank's."""
    return _RANK.sub("rank", text)


def is_rank(who: str) -> bool:
    """Return whether a fault is of a rank."""
    return _RANK.match(who) is not None


def same_on_others(count: int) -> str:
    """Return in words that so many other ranks have said the same.

    Examples
    --------
    >>> same_on_others(1)
    'the same on 1 other rank'
    """
    return f"the same on {count} other rank{'s' * (count > 1)}"
