"""Tasks under guards that a server forks."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ips_components.errors import IPSComponentsError
from ips_components.ips_compat import _tasks, guard
from ips_components.ips_compat._launch import command_line, unsplit


@pytest.fixture
def launch(tmp_path):
    """Run a command with its output in a file; give process and file."""
    made = []

    def start(*command, directory=tmp_path, **environment):
        output = tmp_path / f"output_{len(made)}"
        with output.open("w") as file:
            process = _tasks.launch_guarded(
                command, directory, {**os.environ, **environment}, file.fileno(), file.fileno()
            )
        made.append(process)
        return process, output

    yield start
    for process in made:
        process.kill()


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _wait_for(condition, timeout=15.0):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.02)
    return value


def test_one_server_makes_all_guards(launch):
    processes = [launch("/bin/sleep", "60")[0] for _ in range(5)]
    servers = {_parent(process.pid) for process in processes}
    assert len(servers) == 1
    assert b"guard_server.py" in Path(f"/proc/{servers.pop()}/cmdline").read_bytes()


@pytest.mark.parametrize("status", [0, 1, 77])
def test_exit_status_is_the_commands(launch, status):
    process, _ = launch("/bin/sh", "-c", f"exit {status}")
    assert process.wait(20) == process.poll() == process.returncode == status


def test_death_by_signal_is_the_commands(launch):
    assert launch("/bin/sh", "-c", "kill -SEGV $$")[0].wait(20) == -signal.SIGSEGV


def test_a_command_that_cannot_be_run_says_so(launch, tmp_path):
    process, output = launch("/no/such/command")
    assert process.wait(20) == 127
    assert "cannot run /no/such/command" in output.read_text()
    process, output = launch("/bin/true", directory=tmp_path / "none")
    assert process.wait(20) == 127
    assert "none" in output.read_text()


def test_a_task_gets_what_a_child_would_get(launch, tmp_path):
    code = (
        "import os, resource, sys; m = os.umask(0)\n"
        "print(os.getcwd(), sys.argv[1:], os.environ['WORD'], m, sep='|', end='|')\n"
        "print(len(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_STACK)[0],\n"
        "      os.getpgrp() == os.getpid(), sep='|')\n"
    )
    before, limits = os.umask(0o027), resource.getrlimit(resource.RLIMIT_STACK)
    cpus = os.sched_getaffinity(0)
    try:
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 22, limits[1]))
        os.sched_setaffinity(0, {min(cpus)})
        process, output = launch(sys.executable, "-c", code, "a  b", "", WORD="two words\udcff")
    finally:
        os.umask(before)
        os.sched_setaffinity(0, cpus)
        resource.setrlimit(resource.RLIMIT_STACK, limits)
    assert process.wait(20) == 0, output.read_text()
    expected = f"{tmp_path}|['a  b', '']|two words\udcff|{0o027}|1|{1 << 22}|True"
    assert output.read_text(errors="surrogateescape").strip() == expected


def test_no_signal_is_lost_however_early(launch):
    for _ in range(20):
        process, _ = launch("/bin/sleep", "60")
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


def test_kill_takes_all_that_descends(launch, tmp_path):
    script = f"trap '' TERM; setsid sh -c 'echo $$ > {tmp_path}/child; sleep 60' & sleep 60"
    process, _ = launch("/bin/sh", "-c", script)
    child = tmp_path / "child"
    pid = int(_wait_for(lambda: child.exists() and child.read_text().strip()))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.0)
    process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not guard.started(pid)


def test_a_guard_that_is_killed_counts_as_killed(launch):
    process, _ = launch("/bin/sleep", "60")
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL


def test_tasks_end_when_their_component_is_killed(tmp_path):
    code = (
        "import os, time; from ips_components.ips_compat._tasks import launch_guarded\n"
        "p = launch_guarded(['/bin/sh', '-c', 'echo $$ > task; sleep 60'], os.getcwd(),\n"
        "                   dict(os.environ), 1, 2)\n"
        "time.sleep(60)\n"
    )
    component = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    task = tmp_path / "task"
    pid = int(_wait_for(lambda: task.exists() and task.read_text().strip()))
    started = guard.started(pid)
    component.kill()
    component.wait()
    _wait_for(lambda: guard.started(pid) != started)


def test_a_server_that_dies_is_replaced_and_its_tasks_end(launch):
    process, _ = launch("/bin/sleep", "60")
    os.kill(_parent(process.pid), signal.SIGKILL)
    assert process.wait(20) == -signal.SIGTERM
    assert launch("/bin/true")[0].wait(20) == 0


LATE = f"""
import os, sys, time
sys.path.insert(0, {str(Path(guard.__file__).parent)!r})
import guard_server
become, server = guard_server.Server._become_guard, os.getpid()

def late(self, *arguments):
    while os.getppid() == server:
        time.sleep(0.01)
    become(self, *arguments)

guard_server.Server._become_guard = late
guard_server.main()
"""


def test_a_task_whose_server_dies_before_it_begins_is_ended(tmp_path, monkeypatch):
    """Its guard finds another parent than the one that forked it, and runs nothing."""
    script = tmp_path / "server.py"
    script.write_text(LATE)
    monkeypatch.setattr(_tasks, "_SERVER", script)
    server = _tasks.GuardServer()
    output = tmp_path / "output"
    with output.open("w") as file:
        process = server.launch(
            ["/bin/sh", "-c", "echo ran"], tmp_path, os.environ, file.fileno(), file.fileno()
        )
    server._process.kill()
    server._process.wait()
    assert process.wait(20) == -signal.SIGTERM
    assert output.read_text() == ""
    server.close()


def test_a_server_that_does_not_answer_is_an_error(monkeypatch):
    server = _tasks.GuardServer()
    os.kill(server._process.pid, signal.SIGSTOP)
    server._connection.settimeout(0.3)
    with pytest.raises(IPSComponentsError, match=r"guard server, pid .* did not answer"):
        server.launch(["/bin/true"], "/", dict(os.environ), 1, 2)
    assert server._process.wait(20) == -signal.SIGKILL
    server.close()


def test_paths_with_spaces_are_not_split(tmp_path):
    program = tmp_path / "a program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert unsplit(str(program)).split() == [program.as_posix()]
    assert unsplit("/bin/sh -c true").split() == ["/bin/sh", "-c", "true"]
    assert command_line(f"{program} ", str(program), []) == [str(program)]
    assert command_line("mpiexec -config=x", "/bin/a", ["b"]) == ["mpiexec", "-config=x"]
