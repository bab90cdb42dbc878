"""How a task died, by what MPICH, Open MPI and Slurm have written."""

import sysconfig

import pytest

from ips_components import ips_compat
from ips_components.ips.task_end import describe_end, find_death, last_lines, lines_once

HYDRA = """
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 7056 RUNNING AT node7
=   EXIT CODE: 11
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Segmentation fault (signal 11)
This typically refers to a problem with your application.
Please see the FAQ page for debugging suggestions
"""
OPEN_MPI = """
--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
--------------------------------------------------------------------------
mpirun noticed that process rank 3 with PID 0 on node n7 exited on signal 8 (Floating point except).
--------------------------------------------------------------------------
"""
PRRTE = """
--------------------------------------------------------------------------
prterun noticed that process rank 1 with PID 77 on node node7 exited on
signal 9 (Killed).
--------------------------------------------------------------------------
"""
SLURM = """
srun: error: n1: tasks 0-1: Killed
srun: error: n2: task 3: Aborted
srun: Terminating StepId=2.1
slurmstepd: error: *** STEP 2.1 ON n1 CANCELLED AT 2026-11-27T15:00:00 ***
"""

LAUNCHERS = [
    (HYDRA, "rank 1 (process 7056, on node7) died by SIGSEGV (segmentation fault)"),
    (OPEN_MPI, "rank 3 (on n7) died by SIGFPE (floating point exception)"),
    (PRRTE, "rank 1 (process 77, on node7) died by SIGKILL (often: out of memory)"),
    (SLURM, "rank 3 (on n2) died by SIGABRT (aborted)"),
]


@pytest.mark.parametrize(("report", "said"), LAUNCHERS, ids=["hydra", "openmpi", "prrte", "slurm"])
def test_the_rank_and_its_signal_come_first_and_the_program_has_the_last_word(
    tmp_path, report, said
):
    log = tmp_path / "simulation.log"
    log.write_text(f"step 6: dt = nan\n{report}")
    text = describe_end("the simulation", 11, log, lambda pid, host: pid - 7055)
    headline, *rest = text.splitlines()
    assert headline == f"{said}: the simulation ended with exit status 11; the last lines of {log}:"
    assert rest == ["step 6: dt = nan"]


def test_a_process_whose_rank_is_not_known(tmp_path):
    log = tmp_path / "simulation.log"
    log.write_text(HYDRA)
    text = describe_end("the simulation", 11, log, lambda pid, host: None)
    assert text.startswith("a rank (process 7056, on node7) died by SIGSEGV")
    assert text.endswith(f"ended with exit status 11; it has written nothing to {log}")


def test_a_program_that_ends_by_itself(tmp_path):
    log = tmp_path / "simulation.log"
    log.write_text("Traceback (most recent call last):\nValueError: negative density\n")
    assert find_death(log.read_text()) is None
    text = describe_end("the simulation", 1, log, lambda pid, host: None)
    assert text.startswith("the simulation ended with exit status 1; the last lines of")
    assert text.endswith("\nValueError: negative density")


def test_lines_of_a_program_that_look_like_rules_are_no_words(tmp_path):
    log = tmp_path / "simulation.log"
    log.write_text("-" * 40 + "\n t  energy\n" + "-" * 40 + "\n")
    assert last_lines(log).endswith("\n t  energy")


TRACEBACK = """Traceback (most recent call last):
  File "/home/me/wave.py", line 12, in advance
    check(rho)
  File "{library}/numpy/checks.py", line 3, in check
    raise ValueError("negative density")
ValueError: negative density
"""


def test_a_traceback_of_each_rank_is_shown_once_with_its_count_and_its_place(tmp_path):
    log = tmp_path / "simulation.log"
    traceback = TRACEBACK.format(library=sysconfig.get_path("purelib"))
    log.write_text("step 2\n" + 4 * traceback)
    text = describe_end("the simulation", 1, log, lambda pid, host: None)
    _, *quoted = text.splitlines()
    assert quoted == [
        "step 2",
        *traceback.splitlines()[:-1],
        "ValueError: negative density  (4 times); at /home/me/wave.py, line 12, in advance",
    ]
    assert ips_compat.split_where(text)[1] == "/home/me/wave.py, line 12, in advance"


def test_tracebacks_that_ranks_wrote_at_the_same_time_are_shown_once(tmp_path):
    log = tmp_path / "simulation.log"
    lines = TRACEBACK.splitlines()
    log.write_text("\n".join(line for line in lines for _ in range(3)))
    assert last_lines(log).splitlines()[1:-1] == lines[:-1]


def test_what_ranks_wrote_is_above_what_mpi_abort_wrote(tmp_path):
    log = tmp_path / "simulation.log"
    abort = "Abort(1) on node 2 (rank 2 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 1)"
    log.write_text(f"dt = nan on rank 2\n{abort}\ndt = nan on rank 0\n{abort}\n")
    assert last_lines(log).endswith("\ndt = nan on rank 0  (the same on 1 other rank)")
    log.write_text(f"{abort}\n")
    assert last_lines(log).endswith(f"\n{abort}")


def test_addresses_of_ranks_that_slurm_cut_have_a_remedy(tmp_path):
    log = tmp_path / "simulation.log"
    log.write_text("slurmstepd-n1: error: mpi/pmi2: request not begin with 'cmd='\n")
    assert "set MPIR_CVAR_CH4_NETMOD=ofi in the batch script" in last_lines(log)
    log.write_text("slurmstepd-n1: error: mpi/pmi2: no value for key in req\n")
    assert "MPIR_CVAR" not in last_lines(log)


def test_the_last_lines_are_those_written_last():
    assert lines_once(["no convergence", "step 1", "no convergence", "giving up"]) == [
        "step 1",
        "no convergence  (2 times)",
        "giving up",
    ]
