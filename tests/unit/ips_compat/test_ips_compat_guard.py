"""The guard process: what it runs, how it ends, and what it takes along."""

import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ips_components.ips_compat import guard
from ips_components.ips_compat._launch import write_epilog

SCRIPT = [sys.executable, "-I", "-S", guard.__file__]


def _guard(*command, options=(), **keywords):
    return subprocess.Popen([*SCRIPT, *options, "--", *command], **keywords)


def _wait_for(condition, timeout=15.0):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.02)
    return value


def _read_pid(path):
    return _wait_for(lambda: path.exists() and path.read_text().strip() and int(path.read_text()))


@pytest.mark.parametrize("status", [0, 1, 77])
def test_exit_status_is_the_commands(status):
    assert _guard("/bin/sh", "-c", f"exit {status}").wait(20) == status


def test_death_by_signal_is_the_commands():
    assert _guard("/bin/sh", "-c", "kill -SEGV $$").wait(20) == -signal.SIGSEGV


def test_command_that_does_not_exist():
    process = _guard("/no/such/command", stderr=subprocess.PIPE, text=True)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 127
    assert "cannot run /no/such/command" in error


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT], ids=lambda s: s.name)
def test_semaphores_of_what_was_killed_are_removed(tmp_path, signum):
    """Python's resource tracker, which knows them, is not killed before it has done its work."""
    script = tmp_path / "holds.py"
    script.write_text(
        "import multiprocessing, pathlib, signal, sys, time\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    held = multiprocessing.get_context('spawn').Semaphore()\n"
        "    pathlib.Path(sys.argv[1]).write_text(held._semlock.name)\n"
        "    time.sleep(60)\n"
    )
    name = tmp_path / "name"
    process = _guard(
        sys.executable, script, name, options=["--grace", "0.3"], stderr=subprocess.DEVNULL
    )
    held = Path("/dev/shm") / f"sem.{_wait_for(lambda: name.exists() and name.read_text())[1:]}"
    assert held.exists()
    process.send_signal(signum)
    process.wait(20)
    assert not held.exists()


def test_no_command_is_refused():
    assert subprocess.run(SCRIPT, capture_output=True, timeout=20).returncode == 2


def test_output_passes_through():
    process = _guard("/bin/echo", "hello", stdout=subprocess.PIPE, text=True)
    assert process.communicate(timeout=20)[0] == "hello\n"


def _runaway(tmp_path, ignore_term=False):
    """A command whose child has left its session and its parent."""
    trap = "trap '' TERM;" if ignore_term else ""
    return (
        "/bin/sh",
        "-c",
        f"setsid sh -c '{trap} echo $$ > {tmp_path}/child; sleep 60; sleep 60' & "
        f"echo $$ > {tmp_path}/main; sleep 60",
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signal_ends_command_and_runaways(tmp_path, signum):
    process = _guard(*_runaway(tmp_path))
    pids = [_read_pid(tmp_path / name) for name in ("main", "child")]
    process.send_signal(signum)
    process.wait(10)
    assert not any(guard.started(pid) for pid in pids)


def test_processes_that_ignore_sigterm_are_killed_after_the_grace(tmp_path):
    process = _guard(*_runaway(tmp_path, ignore_term=True), options=("--grace", "0.3"))
    pids = [_read_pid(tmp_path / name) for name in ("main", "child")]
    began = time.monotonic()
    process.terminate()
    process.wait(10)
    assert time.monotonic() - began < 5
    assert not any(guard.started(pid) for pid in pids)


def test_stopped_processes_are_ended_too(tmp_path):
    process = _guard(*_runaway(tmp_path))
    pids = [_read_pid(tmp_path / name) for name in ("main", "child")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    process.terminate()
    process.wait(12)
    assert not any(guard.started(pid) for pid in pids)


def test_runaways_end_with_the_command(tmp_path):
    process = _guard("/bin/sh", "-c", f"setsid sh -c 'echo $$ > {tmp_path}/child; sleep 60' & "
                     f"while [ ! -s {tmp_path}/child ]; do sleep 0.05; done")  # fmt: skip
    assert process.wait(15) == 0
    assert not guard.started(_read_pid(tmp_path / "child"))


def test_death_of_the_parent_ends_everything(tmp_path):
    main, child = tmp_path / "main", tmp_path / "child"
    command = " ".join([*SCRIPT, "--", "/bin/sh", str(tmp_path / "run.sh")])
    (tmp_path / "run.sh").write_text(_runaway(tmp_path)[2])
    parent = subprocess.Popen(["/bin/sh", "-c", f"{command} & wait"], start_new_session=True)
    pids = [_read_pid(main), _read_pid(child)]
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    _wait_for(lambda: not any(guard.started(pid) for pid in pids), 10)


def test_scratch_directory_is_removed(tmp_path):
    scratch = tmp_path / "run" / "scratch"
    process = _guard(
        "/bin/sh", "-c", f"mkdir -p {scratch}/deep; exit 5", options=("--scratch", scratch)
    )
    assert process.wait(20) == 5
    assert not (tmp_path / "run").exists()


def test_janitor_cleans_up_after_its_parent(tmp_path):
    left, killed = tmp_path / "left.pipe", tmp_path / "pid"
    segment = Path("/dev/shm", f"mpich_test_janitor_{os.getpid()}")
    left.touch()
    program = (
        "import os, subprocess, sys, time\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[1]))\n"
        "import guard\n"
        "orphan = subprocess.Popen(['/bin/sleep', '60'], start_new_session=True)\n"
        "marked = subprocess.Popen(['/bin/sleep', '61'], start_new_session=True,\n"
        "                          env={**os.environ, guard.MARK: 'm1'})\n"
        "janitor = subprocess.Popen([sys.executable, sys.argv[1], '--grace', '0', '--parent',\n"
        "                            str(os.getpid()), '--janitor', 'm1'], stdin=subprocess.PIPE)\n"
        "text = f'kill {orphan.pid} {guard.started(orphan.pid)}\\nremove {sys.argv[2]}\\n'\n"
        "janitor.stdin.write(text.encode()); janitor.stdin.flush()\n"
        "print(orphan.pid, marked.pid, janitor.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, guard.__file__, str(left)],
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert all(guard.started(pid) for pid in pids)
    segment.touch()  # of ranks whose guard was killed with its group
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _wait_for(lambda: not any(guard.started(pid) for pid in pids), 10)
    assert not segment.exists()
    assert not left.exists()
    assert not killed.exists()


def test_identity_of_processes():
    assert guard.started(os.getpid())
    assert not guard.started(2**22 + 1)
    assert guard.state(os.getpid()) in "RS"


@pytest.fixture
def segments():
    """Two segments as MPICH names them, one of which is mapped, and one with another name."""
    names = [f"mpich_test_{os.getpid()}_{i}" for i in (0, 1)] + [f"other_test_{os.getpid()}"]
    paths = [Path("/dev/shm") / name for name in names]
    for path in paths:
        path.write_bytes(bytes(4096))
    with paths[1].open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        yield paths
    for path in paths:
        path.unlink(missing_ok=True)


def test_segments_that_nobody_maps_are_removed(segments):
    dead, mapped, other = segments
    guard.remove_segments(time.time() - 60.0)
    assert [path.exists() for path in (dead, mapped, other)] == [False, True, True]


def test_a_semaphore_that_its_maker_has_is_left_alone():
    """Also before any process has opened it: its maker maps it under another name."""
    held = multiprocessing.get_context("spawn").Semaphore()
    guard.remove_segments(time.time() - 60.0)
    assert Path(f"/dev/shm/sem.{held._semlock.name[1:]}").exists()


def test_a_sweeper_removes_them_too(segments):
    dead, mapped, other = segments
    subprocess.run([*SCRIPT, "--sweep", f"{time.time() - 60.0:.0f}"], check=True, timeout=20)
    assert [path.exists() for path in (dead, mapped, other)] == [False, True, True]


def test_epilog_of_a_task_sweeps(segments, tmp_path):
    dead, mapped, other = segments
    epilog = write_epilog(tmp_path / "new", time.time() - 60.0)
    subprocess.run([epilog], check=True, timeout=20)
    assert [path.exists() for path in (dead, mapped, other)] == [False, True, True]


def test_epilog_without_anything_to_do(tmp_path):
    done = subprocess.run([write_epilog(tmp_path, time.time() + 60.0)], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_segments_of_earlier_programs_are_left_alone(segments):
    guard.remove_segments(time.time() + 60.0)
    assert all(path.exists() for path in segments)


def test_guard_needs_nothing_but_the_standard_library():
    done = subprocess.run(
        [sys.executable, "-I", "-S", guard.__file__, "--help"],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=Path("/"),
    )
    assert done.returncode == 0
    assert "--scratch" in done.stdout
