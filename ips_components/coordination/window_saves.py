"""What the coordinator knows of the states that windows have saved for checkpoints."""

from __future__ import annotations

NO_CHECKPOINT = (
    "the analysis returns results over all steps of the run, which cannot be kept half way; use "
    "windows (run.rolling(...).scan or .map), whose state a checkpoint keeps, or take no "
    "checkpoints (NUM_CHECKPOINT = 0 in [CHECKPOINT])"
)


class WindowSaves:
    """Requests to save, by number, and what has become of them."""

    def __init__(self) -> None:
        self.wrong = ""
        """Why the state that was asked for last could not be saved."""
        self._asked = self._answered = 0
        self._over = False

    def ask(self) -> int:
        """Return the number of a new request."""
        self._asked += 1
        return self._asked

    def answered(self, number: int) -> bool:
        """Whether a request was answered, or the windows are over, and their last state saved."""
        return self._over or self._answered >= number

    def note(self, number: int, wrong: str) -> None:
        """Note an answer; with number 0 the windows are over."""
        self._over = self._over or number == 0
        self._answered = max(self._answered, number)
        self.wrong = wrong
