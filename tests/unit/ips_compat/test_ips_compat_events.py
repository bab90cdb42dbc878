"""What workers of a pool have written of their tasks reaches the portal."""

import json

import pytest

from ips_components.ips_compat._pool import _pass_events_on


class Services:
    def __init__(self):
        self.sent, self.warnings = [], []

    def _send_monitor_event(self, **event):
        self.sent.append(event)

    def warning(self, message, *args):
        self.warnings.append(message % args)


@pytest.fixture
def services():
    return Services()


def event(time, kind="IPS_TASK_END"):
    return {"eventType": kind, "event_time": time, "comment": f"task_name = {time}"}


def line(time):
    return json.dumps(event(time)) + "\n"


def test_events_of_all_workers_are_passed_on_in_the_order_of_time(tmp_path, services):
    files = [tmp_path / name for name in ("one.json", "idle.json", "two.json")]
    files[0].write_text(line(1.5) + line(4.0))
    files[2].write_text(line(0.5) + line(3.0))
    _pass_events_on(services, files)
    assert services.sent == [event(time) for time in (0.5, 1.5, 3.0, 4.0)]
    assert not services.warnings
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [1, 20, -2])
def test_an_event_that_a_killed_worker_has_cut_off_is_reported(tmp_path, services, length):
    """The worker in its place goes on in the same file, on the same line."""
    killed, whole = tmp_path / "killed.json", tmp_path / "whole.json"
    cut_off = line(2.0)[:length]
    killed.write_text(line(1.0) + cut_off)
    whole.write_text(line(0.0) + cut_off + line(3.0) + line(4.0))
    _pass_events_on(services, [killed, whole])
    assert services.sent == [event(time) for time in (0.0, 1.0, 4.0)]
    assert services.warnings == [
        f"an event in {killed} is cut off: {cut_off}",
        f"an event in {whole} is cut off: {cut_off}{line(3.0).strip()}",
    ]
    assert not list(tmp_path.iterdir())
