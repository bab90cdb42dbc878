"""Progress as events of IPS: what they say, how often, and that they do no harm."""

import pytest

from ips_components.ips.events import EVENT, PORTAL, TOPIC, ProgressEvents


class Services:
    """Remembers what is published."""

    def __init__(self):
        self.events, self.portal, self.broken = [], [], False

    def publish(self, topic, name, body):
        if self.broken:
            raise RuntimeError("the framework does not answer")
        assert (topic, name) == (TOPIC, EVENT)
        self.events.append(body)

    def send_portal_event(self, kind, comment):
        assert kind == PORTAL
        self.portal.append(comment)


@pytest.fixture
def services():
    return Services()


@pytest.fixture
def at(services):
    """Tell events of a state at a time."""
    time = [0.0]
    events = ProgressEvents(services, clock=lambda: time[0])

    def tell(now, end=None, **state):
        time[0] = now
        state = {"run": "r1", "phase": "running", "n_steps": 40, **state}
        if end is None:
            events.update(state)
        else:
            events.end(state, failed=end)

    return tell


def test_an_event_says_what_the_terminal_says(services, at):
    at(1.0, steps=3, analysed=1, delivered=2048, tasks={"done": 7, "total": 20}, waited=0.25)
    (body,) = services.events
    assert {**body, "t": None} == {
        "run": "r1",
        "phase": "running",
        "step": 3,
        "n_steps": 40,
        "analysed": 1,
        "tasks_done": 7,
        "tasks": 20,
        "delivered": 2048,
        "waited": 0.25,
        "faults": 0,
        "t": None,
        "rate": None,
        "text": "r1: step 3 of 40, 7 of 20 tasks, delivered 2.00 KiB, waited 250 ms",
    }


def test_once_a_second_at_most(services, at):
    for tenth in range(31):
        at(tenth / 10, steps=tenth, delivered=1000 * tenth, rate=10_000.0)
    assert [body["step"] for body in services.events] == [0, 10, 20, 30]
    assert services.events[-1]["rate"] == 10_000


def test_nothing_new_is_no_event(services, at):
    for second in range(5):
        at(second, steps=1, workers={"a": {"rss": second}}, t=second)
    assert len(services.events) == 1


def test_the_end_is_told_at_once_and_once(services, at):
    at(1.0, steps=39)
    at(1.1, steps=40, phase="ended")
    at(1.2, end=False, steps=40, phase="ended")
    at(9.0, end=False, steps=40, phase="ended")
    assert [(body["step"], body["phase"]) for body in services.events] == [
        (39, "running"),
        (40, "ended"),
    ]
    assert [comment.split(":")[0] for comment in services.portal] == ["running", "ended"]


def test_the_end_of_a_run_that_lost_its_pool(services, at):
    at(1.0, steps=4)
    at(1.1, end=True, steps=4)
    assert services.events[-1]["phase"] == "failed"
    assert services.events[-1]["text"].endswith("failed")


def test_before_the_scheduler_has_answered_there_is_nothing_to_tell(services):
    ProgressEvents(services).update({})
    assert services.events == []


def test_a_framework_that_does_not_answer_is_no_reason_to_fail(services, at):
    services.broken = True
    at(1.0, steps=1)
    services.broken = False
    at(3.0, steps=2)
    at(4.0, end=False, phase="ended")
    assert services.events == []
