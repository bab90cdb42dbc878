"""The connection of a component to the scheduler of the analytics' pool."""

from __future__ import annotations

import logging

from distributed import LocalCluster

from ips_components.deadlines import Deadline, poll_until
from ips_components.ips.pool_tasks import connect


def test_a_client_that_outlives_its_scheduler_logs_no_error(caplog):
    """A driver may call finalize of the analytics before that of the simulation."""
    cluster = LocalCluster(n_workers=0, processes=False, dashboard_address=":0")
    with cluster:
        client = connect(cluster.scheduler_address, None, 20.0)
    assert poll_until(lambda: client.status == "connecting", Deadline(20.0), pause=0.05)
    client.close(timeout=2)
    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert [each for each in errors if each.name == "distributed.client"] == []
