"""The end of ranks whose analysis has failed, where ON_ANALYTICS_LOSS = abort: real ``ips.py``."""

from __future__ import annotations

import pytest
from loop_runs import ANALYTICS, loop, record_of, simulation
from workflows import PARTS

pytestmark = [pytest.mark.deaths, pytest.mark.timeout(200)]

DRIVERS = {
    "ours": {"NAME": "Driver", "MODULE": "ips_components.driver"},
    "another": {"NAME": "GenericDriver", "MODULE": "generic_driver"},
}


@pytest.fixture(params=DRIVERS)
def left(request, tmp_path, leaves_nothing):
    """Run a program whose analysis fails at step 5; return which ranks came to their ends."""

    def run(words=""):
        analytics = {
            **ANALYTICS,
            "ANALYSIS": "loop_analysis:fails_at_five",
            "DRAIN_TIME_OUT": 10,
            "ON_ANALYTICS_LOSS": "abort",
        }
        components = {
            "SIM": simulation("field", "", ARGS=f"{PARTS}/leaving.py 1500 {words}"),
            "ANALYTICS": analytics,
        }
        flow = loop(tmp_path, 1, components, **DRIVERS[request.param])
        ended = flow.run(150)
        assert ended.status == 1, ended.output
        assert "step 5 cannot be analysed" in ended.last_lines, ended.output + ended.log
        assert "step 5 cannot be analysed" in record_of(flow)["cause"]
        return {path.name for path in flow.root.glob("work/*/left_*")}

    return run


def test_ranks_that_know_the_cause_have_the_time_to_end_by_themselves(left):
    assert left() == {"left_0", "left_1"}


def test_a_rank_that_does_not_end_is_ended(left):
    assert left("stay") == {"left_0"}
