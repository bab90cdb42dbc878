"""A later launch of a program, of another number of ranks: in C, C++, Fortran and Python."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_ranks import LIBRARY, Rank, RankError, agree, coupling, join_all
from test_both_attached import attached, put_until

from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire.messages import ContractIs, Dropped

PYTHON = [sys.executable, str(Path(__file__).with_name("remote_python.py"))]
MANY, RENUMBER = ContractIs.MANY_LAUNCHES, ContractIs.MANY_LAUNCHES | ContractIs.RENUMBER
SPEC = ArraySpec("t", "<f8", (6,), StepAxis(count=4))

CPP = r"""
#include <ips_bridge.hpp>
int main(int argc, char **argv)
{
    ips::bridge bridge;
    auto t = bridge.declare<double>("t", {6}).steps(4);
    t.block({0}, {6});
    bridge.connect();
    if (bridge.first_step() != 2)
        return 3;
    for (int step = 0; step < 2; step++) {
        std::vector<double> cells(6);
        for (int i = 0; i < 6; i++)
            cells[static_cast<std::size_t>(i)] = 100 * (2 + step) + i;
        bridge.step_time(step, 0.25 * (3 + step));
        t.put(step, cells);
    }
    bridge.close();
    return argc > 9 || !argv[0];
}
"""

FORTRAN = """
program ranks
    use ips_bridge
    implicit none
    type(bridge) :: b
    integer, allocatable :: blob(:)
    integer :: status, step, i
    call bridge_open(b, 0, 1, status)
    call bridge_declare(b, 't', 'f8', [6], status, steps=4)
    call bridge_block(b, 't', 'f8', [0], [6], status)
    call bridge_request(b, blob, status)
    if (status /= BRIDGE_OK) error stop 7
    call bridge_join(b, blob, status)
    if (status /= BRIDGE_OK) error stop 2
    if (bridge_first_step(b) /= 2) error stop 3
    do step = 0, 1
        call bridge_step_time(b, step, 0.25d0 * (3 + step), status)
        if (status /= BRIDGE_OK) error stop 4
        call bridge_put(b, 't', step, [(100.0d0 * (2 + step) + i, i = 0, 5)], status)
        if (status /= BRIDGE_OK) error stop 5
    end do
    call bridge_close(b, status)
    if (status /= BRIDGE_OK) error stop 6
    call bridge_free(b)
end program ranks
"""


@pytest.fixture(params=["c", "python"])
def start(request, command):
    """Start ranks of one language or the other."""
    started = []

    def start(rank=0, size=1, **environment):
        how = command if request.param == "c" else PYTHON
        started.append(Rank(how, rank, size, **environment))
        return started[-1]

    yield start
    for one in started:
        one.forget()


def launch(start, contact, directory, size, steps=SPEC.steps):
    """Start the ranks of one launch, each with its part of the array."""
    ranks = [start(rank, size) for rank in range(size)]
    for number, rank in enumerate(ranks):
        first, last = 6 * number // size, 6 * (number + 1) // size
        rank.offer(replace(SPEC, steps=steps), (first,), (last - first,))
    join_all(ranks, contact, directory)
    return ranks


def close(ranks):
    for rank in ranks:
        rank.tell("close", 0)
    for rank in ranks:
        rank.answer()


@pytest.mark.parametrize("renumber", [True, False])
def test_launches_of_other_numbers_of_ranks_put_into_the_same_array(
    start, sinks, tmp_path, renumber
):
    (sink,) = sinks()
    flags = RENUMBER if renumber else MANY
    with coupling(tmp_path, [sink], agree(SPEC)) as (contact, (receiver,)):
        for number, size in enumerate((2, 3)):
            receiver.begin_launch(size, number, 2 * number, flags)
            ranks = launch(start, contact, tmp_path, size)
            own = [0, 1] if renumber else [2 * number, 2 * number + 1]
            for rank in ranks:
                rank("first_step", 2 * number)
                for step in own:
                    rank("step_time", step, 0.5 * (2 * number + step % 2))
                    rank("put", "t", step, "C")
            close(ranks)
            sink.byes.clear()
        assert sorted(chunk for _, chunk in sink.chunks) == [0, 1, 2, 3]
        assert sorted({(step, time) for _, step, time in sink.times}) == [
            (0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5),
        ]  # fmt: skip


def test_a_step_before_the_launch_is_refused_with_the_remedy(start, sinks, tmp_path):
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(SPEC)) as (contact, (receiver,)):
        receiver.begin_launch(1, 1, 2, MANY)
        (rank,) = launch(start, contact, tmp_path, 1)
        with pytest.raises(RankError, match=r"launch 1 goes on at step 2 .*RENUMBER = True"):
            rank("put", "t", 0, "C")
        rank("put", "t", 2, "C")
        close([rank])


@pytest.mark.parametrize("renumber", [True, False])
@pytest.mark.parametrize("declared", [2, 4], ids=["its own", "all"])
def test_a_launch_puts_no_more_steps_than_its_program_declares(
    start, sinks, tmp_path, renumber, declared
):
    """A program declares the steps of the run, or those of each launch."""
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(SPEC)) as (contact, (receiver,)):
        receiver.begin_launch(1, 1, 2, RENUMBER if renumber else MANY)
        rank = start()
        rank.offer(replace(SPEC, steps=StepAxis(count=declared)), (0,), (6,))
        join_all([rank], contact, tmp_path)
        first = 0 if renumber else 2
        for step in range(declared):
            rank("put", "t", first + step, "C")
        last = 2 + declared
        with pytest.raises(RankError, match=f"step {last} .* its steps up to step {last - 1}"):
            rank("put", "t", first + declared, "C")
        close([rank])
        assert sorted(chunk for _, chunk in sink.chunks) == [2, 3]


def compiled(language, directory, library):
    """Compile the program of a language against the bridge."""
    program = directory / "program"
    if language == "c++":
        source = directory / "ranks.cpp"
        source.write_text("#include <vector>\n" + CPP)
        command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{LIBRARY}", source]
    else:
        source = directory / "ranks.f90"
        source.write_text(FORTRAN)
        command = ["gfortran", f"-J{directory}", LIBRARY / "ips_bridge.f90", source]
    subprocess.run([*command, library, "-lm", "-o", program], check=True, timeout=100)
    return program


@pytest.mark.parametrize("language", ["c++", "fortran"])
def test_a_program_goes_on_in_its_second_launch(built, sinks, tmp_path, language):
    if not shutil.which({"c++": "g++", "fortran": "gfortran"}[language]):
        pytest.skip("needs a compiler")
    program = compiled(language, tmp_path, built / "libips_bridge.a")
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(SPEC)) as (contact, (receiver,)):
        receiver.begin_launch(1, 1, 2, RENUMBER)
        environment = {**os.environ, "IPS_COMPONENTS_CONTACT": str(contact)}
        subprocess.run([program], env=environment, check=True, timeout=60)
        assert sorted(chunk for _, chunk in sink.chunks) == [2, 3]
        for step in (2, 3):
            np.testing.assert_array_equal(sink.chunks[0, step][0], 100 * step + np.arange(6))
        assert sink.times == [(0, 2, 0.75), (0, 3, 1.0)]


@pytest.mark.parametrize("renumber", [True, False])
def test_an_attached_run_gets_all_steps_of_the_next_launch(start, sinks, tmp_path, renumber):
    """A client has attached in the first launch."""
    spec = replace(SPEC, steps=StepAxis(count=5000))
    sink, other = sinks(2)
    flags = RENUMBER if renumber else MANY
    with coupling(tmp_path, [sink], agree(SPEC)) as (contact, (receiver,)):
        receiver.begin_launch(1, 0, 0, flags)
        (rank,) = launch(start, contact, tmp_path, 1, StepAxis())
        rank("put", "t", 0, "C")
        with attached(receiver, other, spec) as (own, _):
            own.begin_launch(1, 0, 0, MANY)
            first = put_until(rank, lambda: other.chunks, 1)
            close([rank])
            other.wait(lambda: 0 in other.byes)
            own.begin_launch(1, 1, first, MANY)
            receiver.begin_launch(1, 1, first, flags | 1 << ContractIs.AWAITED)
            (rank,) = launch(start, contact, tmp_path, 1, StepAxis())
            assert [each.step for each in other.hellos if each.asks][-1] == first - 1
            for step in range(5):
                rank("put", "t", step if renumber else first + step, "C")
                # What a rank in C puts may leave it in the next call.
                other.wait(lambda step=step: not step or (0, first + step - 1) in other.chunks)
            close([rank])
        came, missed = ({chunk for _, chunk, *_ in each} for each in (other.chunks, other.missed))
        assert not came & missed
        assert came | missed == set(range(first + 5))
        passed = [chunk for _, chunk, _, why in other.missed if why == Dropped.WHY_PASSED]
        assert max(passed, default=-1) < first in came  # from the first step on


def test_a_launch_goes_on_without_an_attached_run_that_has_ended(start, sinks, tmp_path):
    """Its client leaves when the launch has begun, and before the rank connects."""
    spec = replace(SPEC, steps=StepAxis(count=5000))
    sink, other = sinks(2)
    with coupling(tmp_path, [sink], agree(SPEC)) as (contact, (receiver,)):
        with attached(receiver, other, spec):
            receiver.begin_launch(1, 1, 2, MANY | 1 << ContractIs.AWAITED)
            receiver.detach("c-run~1")
        (rank,) = launch(start, contact, tmp_path, 1)
        for step in (2, 3):
            rank("put", "t", step, "C")
        close([rank])
        assert sorted(chunk for _, chunk in sink.chunks) == [2, 3]
        assert not other.hellos


def test_a_launch_does_not_wait_for_ever_for_an_attached_run(start, sinks, tmp_path):
    """Its receivers are there, but no contract comes."""
    sink, other = sinks(2)
    with coupling(tmp_path, [sink], agree(SPEC)) as (contact, (receiver,)):
        receiver.begin_launch(1, 1, 2, MANY | 2 << ContractIs.AWAITED)
        with attached(receiver, other):
            (rank,) = launch(start, contact, tmp_path, 1, StepAxis())
            rank("put", "t", 2, "C")
            rank("put", "t", 3, "C")
            close([rank])
        assert sorted(chunk for _, chunk in sink.chunks) == [2, 3]
