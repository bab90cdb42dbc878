"""Which runs that are over the coordinator forgets."""

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.coordinator import MAX_RETIRED, surplus


def over(run: str, main: str = "") -> CoordinatedRun:
    found = CoordinatedRun(run)
    found.retired, found.main = True, main
    return found


def test_a_run_is_not_forgotten_for_the_runs_that_were_attached_to_it():
    runs = {"r": over("r")}
    runs |= {f"r~{i}": over(f"r~{i}", "r") for i in range(MAX_RETIRED + 3)}
    assert surplus(runs) == ["r~0", "r~1", "r~2"]


def test_the_oldest_runs_are_forgotten():
    runs = {f"r{i}": over(f"r{i}") for i in range(MAX_RETIRED + 2)}
    runs["r0"].retired = False
    assert surplus(runs) == ["r1"]
