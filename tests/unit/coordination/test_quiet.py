"""When a workflow that waits for its analysis may go on."""

import asyncio

from distributed import Scheduler

from ips_components.coordination.published import is_quiet


def test_an_analysis_that_has_let_its_result_go_is_about_to_go_on():
    """It has the value, and has not said yet what it waits for next."""

    async def ask():
        async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
            return is_quiet(scheduler, []), is_quiet(scheduler, ["a result that was let go"])

    assert asyncio.run(ask()) == (True, False)
