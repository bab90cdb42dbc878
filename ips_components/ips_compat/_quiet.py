"""Warnings of IPS about what is as it should be, and what it says twice, left out."""

import logging
import re

#: How they begin. INIT is an optional port, USER_W3_DIR an optional folder for web pages of the
#: portal's bridge; the others say what nodes were found.
_HARMLESS = (
    "Missing INIT specification",
    "Missing USER_W3_DIR configuration",
    "RM: listOfNodes = ",
    "RM: max_ppn = ",
    "Using user set procs per node: ",
)
_NODES = re.compile(r"RM: \d+ nodes and \d+ processors per node")


_FAILURE = "received a failure message from component"


class _Harmless(logging.Filter):
    def __init__(self, reported: bool) -> None:
        super().__init__()
        self._reported = reported

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno == logging.ERROR:
            return not (self._reported and text.startswith(_FAILURE))
        harmless = text.startswith(_HARMLESS) or _NODES.match(text)
        return not (record.levelno == logging.WARNING and harmless)


def silence(logger: logging.Logger, level: int, reported: bool) -> None:
    """Leave out harmless warnings, unless everything shall be logged.

    Parameters
    ----------
    logger
        Of the framework, or of one of its components.
    level
        Its level of logging; at ``DEBUG`` nothing is left out.
    reported
        Whether the cause of a failure is reported at the end, so that it need not be logged, too.
    """
    if level > logging.DEBUG and not any(isinstance(each, _Harmless) for each in logger.filters):
        logger.addFilter(_Harmless(reported))
