"""How far one rank may send, by array, and for which rows it waits."""

from __future__ import annotations

import threading

from ips_components.wire import messages as m


class RankCredit:
    """The credit of one connection.

    Notes
    -----
    ======================== =================== ==================================================
    field                    written by          guarded by
    ======================== =================== ==================================================
    ``_credited, _wanted``   any thread          `_lock`
    ``_last_row``            reader              no lock: a stale row delays credit by one message
    ======================== =================== ==================================================
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credited: dict[int, int] = {}
        self._wanted: dict[int, int] = {}  # array -> row for which the rank waits
        self._last_row: dict[int, int] = {}

    @property
    def wanted(self) -> bool:
        """Whether the rank waits."""
        return bool(self._wanted)

    @property
    def rows(self) -> list[tuple[int, int]]:
        """For which row of which array the rank waits."""
        with self._lock:
            return list(self._wanted.items())

    def note_row(self, array: int, row: int) -> None:
        """Note that a piece of a row came (the reader only)."""
        self._last_row[array] = row

    def want(self, message: m.Want) -> None:
        """Note that the rank waits for credit."""
        with self._lock:
            self._wanted[message.array] = message.row

    def first(self, watermarks: list[int]) -> list[m.Message]:
        """Return the credit with which the rank begins, and note that it has it."""
        with self._lock:
            self._credited = {array: mark for array, mark in enumerate(watermarks) if mark}
            return [m.Credit(array, mark) for array, mark in self._credited.items()]

    def due(self, watermarks: list[int], at_once: bool = False) -> list[m.Message]:
        """Return credit and note it.

        Where not ``at_once``, only where half of the last one is used up or the rank waits.
        """
        if not any(self._is_due(array, mark, at_once) for array, mark in enumerate(watermarks)):
            return []  # the common case, without the lock
        with self._lock:
            return [
                self._grant(array, mark)
                for array, mark in enumerate(watermarks)
                if self._is_due(array, mark, at_once)
            ]

    def _grant(self, array: int, mark: int) -> m.Message:
        self._credited[array] = mark
        if self._wanted.get(array, mark) < mark:
            del self._wanted[array]
        return m.Credit(array, mark)

    def _is_due(self, array: int, mark: int, at_once: bool) -> bool:
        credited = self._credited.get(array, 0)
        if mark <= credited or at_once:
            return mark > credited
        used = self._last_row.get(array, -1) + 1
        return array in self._wanted or credited - used <= (mark - used) // 2
