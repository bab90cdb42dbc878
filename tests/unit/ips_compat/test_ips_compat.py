"""The adapter's parts that need no framework: versions, resources, launchers, messages."""

import logging
import os
import pickle
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from ips_components import ips_compat
from ips_components.config import Platform
from ips_components.errors import ConfigError, IPSComponentsError, UnsupportedVersion
from ips_components.ips_compat import _deadlock, _ips, _quiet, guard
from ips_components.ips_compat._launchers import write_launchers
from ips_components.ips_compat._security import all_on_one_host, make_security
from ips_components.ips_compat._tls import days_of_run
from ips_components.ips_compat.resources import Allocator, Request


@pytest.mark.parametrize("version", ["0.8.1", "0.8.2", "0.8.10+g12345", "0.8.1.post1"])
def test_versions_within_the_span(version):
    ips_compat.check_version(version)


@pytest.mark.parametrize("version", ["0.8.0", "0.7.1", "0.9.0", "1.0", "0+unknown"])
def test_versions_outside_of_it(version):
    with pytest.raises(UnsupportedVersion, match="pip install"):
        ips_compat.check_version(version)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("negative"), "ValueError: negative"),
        (RuntimeError("it broke"), "it broke"),
        (IPSComponentsError("a message of ours"), "a message of ours"),
        (KeyError(), "KeyError"),
    ],
)
def test_errors_in_words(error, words):
    assert ips_compat.describe(error) == words


def test_errors_with_what_they_came_from():
    error = RuntimeError("cannot start")
    error.__cause__ = OSError("no space")
    assert ips_compat.describe(error) == "cannot start (from OSError: no space)"


def test_the_place_of_an_error_is_said_last():
    error = IPSComponentsError("no analysis")
    error.__cause__ = ModuleNotFoundError("No module named 'sklaern'")
    error.__cause__.add_note("at a.py, line 1, in <module>")
    text = ips_compat.describe(error)
    assert ips_compat.split_where(text) == (
        "no analysis (from ModuleNotFoundError: No module named 'sklaern')",
        "a.py, line 1, in <module>",
    )


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({}, r"no \[TIME_LOOP\]"),
        ({"TIME_LOOP": {}}, r"\[TIME_LOOP\] without MODE"),
        ({"TIME_LOOP": {"MODE": "REGULAR", "FINISH": "1"}}, r"\[TIME_LOOP\] without START"),
        ({"TIME_LOOP": {"MODE": "EXPLICIT"}}, r"\[TIME_LOOP\] without VALUES"),
    ],
)
def test_times_that_a_driver_asks_for_and_a_config_lacks_are_named(config, what):
    ips_compat.install()
    services = SimpleNamespace(time_loop=None, sim_conf={"SIM_NAME": "plate", **config})
    with pytest.raises(ConfigError, match=f"the config of plate has {what}, and its driver"):
        _ips.ServicesProxy.get_time_loop(services)


def test_error_of_a_pool_travels():
    error = ips_compat.TaskPoolError("two failed", {"a": 0}, {"b": ValueError("x")})
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "two failed"
    assert copy.results == {"a": 0}
    assert isinstance(copy.failures["b"], ValueError)


def _platform(**changes):
    values = {
        "HOST": "",
        "MPIRUN": "mpiexec",
        "NODE_DETECTION": "manual",
        "CORES_PER_NODE": 8,
        "SOCKETS_PER_NODE": 1,
        "NODE_ALLOCATION_MODE": "SHARED",
        **changes,
    }
    return Platform(**{name.lower(): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("platform", "requests", "said"),
    [
        ({}, [Request("pool", 1, 1), Request("ranks", 4)], ""),
        ({"CORES_PER_NODE": 4}, [Request("pool", 1, 1), Request("ranks", 4)], "pool holds cores"),
        ({}, [Request("ranks", 9)], "9 processes asked for"),
        ({}, [Request("pool", 2, 1)], "2 processes asked for, 1 per node"),
        ({"NODES": 2, "PROCS_PER_NODE": 8}, [Request("pool", 2, 1), Request("ranks", 14)], ""),
        (
            {"NODES": 2, "PROCS_PER_NODE": 8, "NODE_ALLOCATION_MODE": "EXCLUSIVE"},
            [Request("pool", 2, 1, shared=False), Request("ranks", 8, shared=False)],
            "pool holds whole nodes",
        ),
        ({"GPUS_PER_NODE": 2}, [Request("pool", 2, 2, gpp=1)], ""),
        ({"GPUS_PER_NODE": 1}, [Request("pool", 2, 2, gpp=1)], "2 processes asked for"),
    ],
)
def test_tasks_that_run_together_must_fit(platform, requests, said):
    allocator = Allocator.of_platform(_platform(**platform))
    answers = [allocator.allocate(request) for request in requests]
    assert answers[:-1] == [""] * (len(requests) - 1)
    assert (said in answers[-1]) if said else (answers[-1] == "")


def test_nodes_of_a_batch_job_are_unknown_outside_of_it(monkeypatch):
    monkeypatch.delenv("SLURM_NODELIST", raising=False)
    assert Allocator.of_platform(_platform(NODE_DETECTION="slurm_env")) is None


class _Id:
    def __init__(self, name):
        self.class_name = name

    def __str__(self):
        return self.class_name


def _framework(*blocked, held=()):
    messages = [
        SimpleNamespace(sender_id=_Id(sender), target_method=method, args=args)
        for sender, method, *args in blocked
    ]
    active = {i: (_Id(name), cores, cores) for i, (name, cores) in enumerate(held)}
    resources = SimpleNamespace(total_cores=8, active_tasks=active)
    return SimpleNamespace(blocked_messages=messages, resource_manager=resources)


TASK = SimpleNamespace(nproc=4)


@pytest.mark.parametrize(
    ("blocked", "working", "dead"),
    [
        ([("A", "init_task", TASK)], ["A"], True),
        ([("A", "init_task", TASK), ("D", "wait_call", 1, True)], ["A", "D"], True),
        ([("A", "init_task", TASK)], ["A", "B"], False),
        ([("D", "wait_call", 1, True)], ["D"], False),
        ([("A", "init_task", TASK), ("D", "wait_call", 1, False)], ["A", "D"], False),
        ([], ["A"], False),
    ],
)
def test_deadlocks_over_cores(blocked, working, dead):
    found = _deadlock.find(_framework(*blocked, held=[("A", 8)]), working)
    assert (found is not None) == dead
    if found:
        assert "A holds 8" in found[1]


def test_launchers_run_dask_wherever_it_is(tmp_path):
    launchers = write_launchers(tmp_path, "a pool/1", workers_per_node=3)
    assert launchers.scheduler.parent.parent.parent == tmp_path
    for path in (launchers.scheduler, launchers.worker):
        assert os.access(path, os.X_OK)
        done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0
        assert "--scheduler-file" in done.stdout
    assert "--nworkers 3" in launchers.worker.read_text()
    assert len(launchers.logs()) == 2


def test_workers_are_forked_unless_dask_is_configured_otherwise(tmp_path, monkeypatch):
    script = write_launchers(tmp_path, "pool", libraries=["a.b", "c"]).worker.read_text()
    assert "-m ips_components.external.forked_workers distributed,a.b,c " in script
    for line in ("MULTIPROCESSING_METHOD=forkserver", "OMP_NUM_THREADS=1"):
        assert line in script
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "spawn")
    script = write_launchers(tmp_path, "pool").worker.read_text()
    assert "-m distributed.cli.dask_worker " in script
    assert "forkserver" not in script


def test_a_second_launcher_replaces_the_first(tmp_path):
    first = write_launchers(tmp_path, "pool")
    second = write_launchers(tmp_path, "pool", workers_per_node=2)
    assert first == second
    assert "--nworkers 2" in second.worker.read_text()
    assert {path.name for path in second.worker.parent.iterdir()} == {
        "dask-scheduler",
        "dask-worker",
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dask-scheduler", "--port", "0"], ["python3", "-m", "distributed.cli.dask_scheduler"]),
        (["--image=a b", "dask-worker", "x y"], ["--image=a", "b", "python3", "-m"]),
        (["--image=a", "--env=X", "dask-worker"], ["--image=a", "--env=X", "python3", "-m"]),
        (["other", "a b"], ["other", "a b"]),
    ],
)
def test_options_of_shifter_may_come_before_the_executable(tmp_path, words, expected):
    shifter = tmp_path / "shifter"
    shifter.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    shifter.chmod(0o755)
    launchers = write_launchers(tmp_path, "pool", shifter=str(shifter))
    done = subprocess.run([launchers.shifter, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.splitlines()[: len(expected)] == expected
    if "dask-worker" in words:
        assert "--nworkers" in done.stdout


def test_pools_know_dask_before_one_is_made():
    code = (
        "import sys; from ips_components import ips_compat; ips_compat.install()\n"
        "from ipsframework import TaskPool\n"
        "assert TaskPool.dask and TaskPool.distributed.__version__.replace('.', '').isdigit()\n"
        "assert TaskPool.dask.distributed.Client and TaskPool.dask.__version__\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("mark", ["", "0123456789abcdef"])
def test_dask_has_a_directory_that_nobody_else_can_enter(tmp_path, mark):
    """Also where a launcher does not pass the environment on, which has the run's random mark."""
    launchers = write_launchers(tmp_path, "pool")
    script = launchers.worker.read_text().replace("exec ", ": ", 1)
    head, _, _ = script.partition("exec ")
    probe = tmp_path / "probe"
    probe.write_text(head + 'stat -c "%a %n" "$DASK_TEMPORARY_DIRECTORY"\n')
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), guard.MARK: mark}
    found = {
        subprocess.run(["sh", probe], env=environment, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(found) == 2
    assert all(each.startswith("700 ") for each in found)
    if not mark:
        environment["TMPDIR"] = str(tmp_path / "none")
        refused = subprocess.run(["sh", probe], env=environment, capture_output=True, text=True)
        assert refused.returncode == 1
        assert "cannot make a directory for Dask below" in refused.stderr


def test_certificates_are_valid_as_long_as_the_job():
    assert days_of_run({}) == 365
    assert days_of_run({"SLURM_JOB_END_TIME": str(int(time.time() + 3600))}) == 1
    assert days_of_run({"SLURM_JOB_END_TIME": str(int(time.time() + 40 * 86400))}) == 40


WORKSTATION = {"MPIRUN": "mpiexec", "NODE_DETECTION": "manual"}
ONE_NODE = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURMD_NODENAME": "n1"}


@pytest.mark.parametrize(
    ("platform", "environment", "one_host"),
    [
        ({"MPIRUN": "eval"}, {"SLURM_JOB_ID": "7"}, True),
        (WORKSTATION, {}, True),
        ({**WORKSTATION, "NODES": "0"}, {}, True),
        ({**WORKSTATION, "NODES": 2}, {}, False),
        ({**WORKSTATION, "NODE_DETECTION": "pbs_env"}, {}, False),
        (WORKSTATION, {"PBS_JOBID": "7"}, False),
        (WORKSTATION, ONE_NODE, True),
        ({"MPIRUN": "srun"}, ONE_NODE, True),
        ({"MPIRUN": "srun"}, {**ONE_NODE, "SLURM_JOB_NODELIST": "n[1-2]"}, False),
        ({"MPIRUN": "srun"}, {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}, False),
        ({"MPIRUN": "srun"}, {}, False),
        ({}, {}, False),
    ],
)
def test_whether_all_is_on_one_host(platform, environment, one_host):
    def parameter(name, silent=False):
        return platform[name]

    assert all_on_one_host(parameter, environment) is one_host


def _pool(platform=WORKSTATION, **config):
    services = SimpleNamespace(
        component_ref=SimpleNamespace(config=config),
        get_config_param=lambda name, silent=False: platform[name],
    )
    return SimpleNamespace(services=services)


def test_a_pool_is_safe_unless_it_is_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    security = make_security(_pool())
    (directory,) = security.directories
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(security.credentials.key.stat().st_mode) == 0o600
    options = security.options()
    assert options[options.index("--host") + 1] == "127.0.0.1"
    assert options[options.index("--protocol") + 1] == "tls"
    security.remove()
    assert not directory.exists()

    plain = make_security(_pool(SECURITY="None", LOOPBACK="False"))
    assert plain.options() == ["--dashboard-address", "127.0.0.1:0"]
    assert plain.client() == {}
    with pytest.raises(ConfigError, match="SECURITY: expected one of dask, tls, none, got 'ssl'"):
        make_security(_pool(SECURITY="ssl"))
    with pytest.raises(ConfigError, match="LOOPBACK: expected one of"):
        make_security(_pool(LOOPBACK="eth0"))


def test_without_openssl_the_remedies_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"openssl, which is not in PATH: .* SECURITY = none"):
        make_security(_pool())
    assert make_security(_pool(SECURITY="none")).credentials is None


def test_variables_of_a_pool_leave_those_of_the_user(tmp_path):
    script = write_launchers(tmp_path, "pool", environment={"A_": "[]", "B_": "it's $HOME"}).worker
    text = script.read_text()
    begin = text.index('[ -n "${A_')
    lines = text[begin : text.index("exec ", begin)]
    line = f'{lines}printf \'%s|%s\' "$A_" "$B_"'
    for given, expected in (({}, "[]|it's $HOME"), ({"A_": ""}, "|it's $HOME")):
        shown = subprocess.run(
            ["/bin/sh", "-c", line], env=given, capture_output=True, text=True, check=True
        )
        assert shown.stdout == expected


def test_tail_of_a_log(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {i}\n" for i in range(10000)))
    assert ips_compat.tail(log, 2) == "line 9998\nline 9999"
    assert ips_compat.tail(tmp_path / "none.log") == ""


def test_installing_outside_of_a_framework_changes_classes_only():
    code = (
        "from ips_components import ips_compat\n"
        "ips_compat.install(); ips_compat.install()\n"
        "import os, ips_components.driver, ips_components.simulation, ips_components.analytics\n"
        "assert 'IPS_COMPONENTS_MARK' not in os.environ\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1073741824 1"), ({"MALLOC_TRIM_THRESHOLD_": "7", "MALLOC_ARENA_MAX": "3"}, "7 3")],
)
def test_workers_reuse_freed_memory_unless_the_user_says_otherwise(tmp_path, given, expected):
    script = write_launchers(tmp_path, "pool").worker
    lines = script.read_text().splitlines()
    memory = next(line for line in lines if "MALLOC_TRIM_THRESHOLD_" in line)
    shown = subprocess.run(
        ["/bin/sh", "-c", f"{memory}\nexec printenv MALLOC_TRIM_THRESHOLD_ MALLOC_ARENA_MAX"],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == expected.split()
    assert "MALLOC" not in write_launchers(tmp_path, "pool").scheduler.read_text()


@pytest.mark.parametrize(
    ("level", "text", "reported", "kept"),
    [
        (logging.WARNING, "Missing INIT specification in config file for simulation a", False, 0),
        (logging.WARNING, "RM: 1 nodes and 8 processors per node", False, 0),
        (logging.WARNING, "RM: listOfNodes = [('dummynode0', 8)]", False, 0),
        (logging.WARNING, "Missing USER_W3_DIR configuration - disabling web-v", False, 0),
        (logging.WARNING, "RM: cannot do that", False, 1),
        (logging.ERROR, "received a failure message from component a : (X,)", True, 0),
        (logging.ERROR, "received a failure message from component a : (X,)", False, 1),
        (logging.ERROR, "Missing INIT specification", True, 1),
    ],
)
def test_what_ips_warns_of_without_need_is_left_out(level, text, reported, kept):
    record = logging.LogRecord("FRAMEWORK", level, "", 1, text, (), None)
    assert bool(_quiet._Harmless(reported).filter(record)) == bool(kept)
