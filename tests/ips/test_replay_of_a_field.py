"""A stored field analysed by itself: a driver with an analytics and no simulation."""

import numpy as np
from loop_runs import ANALYTICS, results
from workflows import Workflow


def test_a_replay_may_take_longer_than_the_deadlines_of_a_simulation(tmp_path, leaves_nothing):
    """Its driver waits for nothing but the analysis."""
    field = np.arange(12.0).reshape(6, 2)
    np.save(tmp_path / "field.npy", field)
    flow = Workflow(
        tmp_path,
        {
            "DRIVER": {"NAME": "HastyDriver", "MODULE": "hasty_driver"},
            "ANALYTICS": {
                **ANALYTICS,
                "ANALYSIS": "slow_analysis:slow_sum",
                "SOURCE": tmp_path / "field.npy",
                "DRAIN_TIME_OUT": 1,
            },
        },
    )
    ended = flow.run(100)
    assert ended.status == 0, ended.output + ended.log
    np.testing.assert_array_equal(results(flow)["sums"], field.sum(axis=1))
