"""For drivers: wait for whichever of several calls ends first, with a deadline."""

import time
from collections.abc import Iterable
from typing import Any

from ips_components.ips_compat._supervisor import WAIT_ANY


def answer(services: Any, call: int) -> Any:
    """Value that a call returned; IPS gives it in a tuple. Raises what the call raised."""
    (value,) = services.wait_call(call)
    return value


def wait_first(services: Any, calls: Iterable[int], timeout: float) -> int | None:
    """Wait until one of several calls made by ``call_nonblocking`` has ended.

    IPS itself waits for one call or for all, without a deadline; a driver that couples components
    needs the first one that ends, which may be the one that failed.

    Parameters
    ----------
    services
        The services of the calling component.
    calls
        Ids of calls that were not waited for yet.
    timeout
        Seconds to wait at most.

    Returns
    -------
    int or None
        The call that ended; get its value or its exception by `answer`, which will not block.
        None when the time has passed.
    """
    deadline = time.monotonic() + timeout
    message = services._invoke_service(services.fwk.component_id, WAIT_ANY, tuple(calls), deadline)
    ended: int | None = services._get_service_response(message, block=True)
    return ended
