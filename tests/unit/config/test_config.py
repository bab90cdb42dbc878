"""Parameters of config files: what is read, what is refused, and how it is said."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components import config
from ips_components.config import _coupled, declared
from ips_components.config import _types as types
from ips_components.errors import ConfigError
from ips_components.ips_compat.resources import check_files_and_resources

PARAMETERS = [each for section in config.SECTIONS for each in declared(section).values()]

PLATFORM = """
HOST =
MPIRUN = mpiexec
NODE_DETECTION = manual
CORES_PER_NODE = 8
SOCKETS_PER_NODE = 1
NODE_ALLOCATION_MODE = SHARED
"""

CONFIG = """
SIM_NAME = heat
SIM_ROOT = /tmp/heat
LOG_FILE = $SIM_ROOT/heat.log
SIMULATION_MODE = NORMAL

[PORTS]
    NAMES = DRIVER SIMULATION ANALYTICS
    [[DRIVER]]
        IMPLEMENTATION = DRIVER
    [[SIMULATION]]
        IMPLEMENTATION = HEAT
    [[ANALYTICS]]
        IMPLEMENTATION = PCA

[TIME_LOOP]
    MODE = REGULAR
    START = 0
    FINISH = 1
    NSTEP = 200

[DRIVER]
    CLASS = test
    SUB_CLASS =
    NAME = Driver
    NPROC = 1
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.driver

[HEAT]
    CLASS = test
    SUB_CLASS =
    NAME = Simulation
    NPROC = 4
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.simulation
    EXECUTABLE = /bin/sh
    ARGS = heat.py --steps {NSTEP} --tag "one"
    ENVIRONMENT = OMP_NUM_THREADS=1 MODE=fast

[PCA]
    CLASS = test
    SUB_CLASS =
    NAME = Analytics
    NPROC = 1
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.analytics
    ANALYSIS = my_analysis:mean
    ANALYSIS_ARGS = n_components=4, solver=full, weights=[1, 2.5]
    DASK_WORKERS_PER_NODE = 2
    DASK_PPW = 1
    LANES = tcp
    [[ARRAYS]]
        [[[temperature]]]
            SHAPE = 64, 32
            DIMS = y x
            DECOMPOSITION = 2, 2
            HALO = 1
            STEPS = 0:200:10
            CHUNKS = 1, 32, -1
            POLICY = drop
            UNITS = K
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write both files, with replacements, and check them."""
    (tmp_path / "my_analysis.py").write_text(
        "def mean(arrays, *, n_components=1, solver='', weights=()):\n    return arrays\n"
        "def least(arrays, run, bound, **more):\n    return arrays\n"
        "def empty():\n    return {}\n"
        "def forgets(arrays):\n    def inner():\n        return 1\n    arrays.mean()\n"
        "def commits(arrays, run):\n    run.commit({})\n"
        "def refuses(arrays):\n    raise ValueError('not yet')\n"
    )
    (tmp_path / "misspelt.py").write_text(
        "import os, numpi.fft as fft\ntry:\n    import not_needed\nexcept ImportError:\n    pass\n"
        "def mean(arrays):\n    return arrays\n"
    )
    (tmp_path / "broken.py").write_text("def mean(arrays):\n    return arrays +\n")
    (tmp_path / "other.py").write_text("def mean(arrays, **options):\n    return arrays\n")
    for name in ("PROCS_PER_NODE", "NODES"):
        monkeypatch.delenv(name, raising=False)

    def check(*replacements, platform=(), text=CONFIG):
        paths = tmp_path / "heat.config", tmp_path / "machine.conf"
        for path, content, changes in zip(
            paths, (text, PLATFORM), (replacements, platform), strict=True
        ):
            for old, new in changes:
                assert old in content, f"nothing to replace: {old}"
                content = content.replace(old, new, 1)
            path.write_text(content)
        found = check_files_and_resources([paths[0]], paths[1])
        return found.errors, found.runs

    return check


def test_the_time_loop_may_be_left_out_where_nothing_needs_it(files):
    loop = "[TIME_LOOP]\n    MODE = REGULAR\n    START = 0\n    FINISH = 1\n    NSTEP = 200\n"
    args = '    ARGS = heat.py --steps {NSTEP} --tag "one"'
    problems, _ = files((loop, ""), (args, "    ARGS = heat.py"))
    assert not problems, config.explain(problems)
    problems, _ = files((loop, ""), (args, "    ARGS = heat.py --steps {NSTEP}"))
    assert "ARGS of [HEAT] has {NSTEP}" in config.explain(problems)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("HALO = 2:3, 1", ""),
        ("HALO = 2:3, 0:1\n            SHARED = none, low", ""),
        ("SHARED = high", ""),
        ("HALO = 2:3, 1, 1", "expected 2 entries"),
        ("HALO = 2:-3, 1", "below:above"),
        ("HALO = 1:2:3, 1", "below:above"),
        ("SHARED = low, low, low", "expected 2 entries"),
        ("SHARED = left", "low, high or none"),
    ],
)
def test_ghost_cells_per_side_and_shared_points(files, lines, complaint):
    problems, _ = files(("HALO = 1", lines))
    assert complaint in config.explain(problems) if complaint else not problems


def test_the_number_of_steps_may_be_left_out_where_nothing_needs_it(files):
    steps = ("    NSTEP = 200\n", "")
    args = '    ARGS = heat.py --steps {NSTEP} --tag "one"'
    problems, runs = files(steps, (args, "    ARGS = heat.py --end {FINISH}"))
    assert not problems, config.explain(problems)
    assert runs[0].n_steps is None
    assert runs[0].times.finish == 1.0
    problems, _ = files(steps)
    text = config.explain(problems)
    assert "[TIME_LOOP] NSTEP" in text and "ARGS of [HEAT] has {NSTEP}" in text
    problems, _ = files(ANY_DRIVER, steps, (args, "    ARGS = heat.py"))
    assert "IPS needs START, FINISH and NSTEP" in config.explain(problems)


def test_several_analyses_of_one_run(files):
    several = "my_analysis:mean, my_analysis:spread"
    problems, _ = files(("my_analysis:mean", several))
    assert "my_analysis has no function 'spread'" in config.explain(problems)
    problems, _ = files(("my_analysis:mean", "my_analysis:mean, my_analysis:mean"))
    assert "package.module:function, or several with commas between" in config.explain(problems)
    assert "(my_analysis:mean is there twice)" in config.explain(problems)


def test_analyses_of_one_run_need_different_names(files):
    problems, _ = files(("my_analysis:mean", "my_analysis:mean, other:mean"))
    assert "my_analysis:mean and other:mean have the same name" in config.explain(problems)


def test_a_script_is_looked_for_where_the_program_starts(files, tmp_path):
    for script, fine in (("$PWD/none.py", False), (f"{tmp_path}/my_analysis.py", True)):
        changes = ("/bin/sh\n", "python3\n"), ("= heat.py", f"= {script}")
        problems, _ = files(*changes)
        assert (not problems) == fine, config.explain(problems)
    (tmp_path / "heat.py").touch()
    section = "    SCRIPT =\n    MODULE = ips_components.simulation\n"
    problems, _ = files(
        ("/bin/sh\n", "python3\n"),
        (f"    INPUT_FILES =\n    OUTPUT_FILES =\n{section}",
         f"    INPUT_FILES = heat.py\n    OUTPUT_FILES =\n{section}"),
    )  # fmt: skip
    assert not problems, config.explain(problems)


def test_netcdf_needs_a_package(files, monkeypatch):
    change = "LANES = tcp", "LANES = tcp\n    RESULTS_FORMAT = netcdf"
    assert not files(change)[0]
    monkeypatch.setattr(_coupled, "_is_installed", lambda package: False)
    problems, _ = files(change)
    assert "needs one of the packages netCDF4, h5netcdf, scipy" in config.explain(problems)


def test_results_of_an_earlier_run_are_found_before_the_run(files, tmp_path):
    kept = tmp_path / "kept.zarr"
    change = "LANES = tcp", f"LANES = tcp\n    RESULTS = {kept}"
    assert not files(change)[0]
    kept.mkdir()
    problems, _ = files(change)
    assert f"'{kept}' exists already" in config.explain(problems)
    overwrite = "LANES = tcp", f"LANES = tcp\n    RESULTS = {kept}\n    OVERWRITE = True"
    assert not files(overwrite)[0]


def test_a_folder_for_results_that_cannot_be_written_is_found_before_the_run(files, tmp_path):
    (tmp_path / "file").touch()
    problems, _ = files(("LANES = tcp", f"LANES = tcp\n    RESULTS = {tmp_path}/file/r.zarr"))
    assert f"nothing can be written to '{tmp_path}/file'" in config.explain(problems)


@pytest.mark.parametrize(
    ("launcher", "program", "said"),
    [
        ("srun", None, "there is no command srun in PATH"),
        ("mpirun", "echo 'HYDRA build details:'", "is the launcher of MPICH (Hydra)"),
        ("mpirun", "echo 'mpirun (Open MPI) 4.1.4'", ""),
        ("mpirun", "exit 3", ""),
    ],
)
def test_launchers_are_what_they_are_taken_for(
    files, monkeypatch, tmp_path, launcher, program, said
):
    (tmp_path / "bin").mkdir()
    if program:
        (tmp_path / "bin" / launcher).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "bin" / launcher).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    problems, _ = files(platform=[("= mpiexec", f"= {launcher}")])
    assert said in config.explain(problems)
    assert len(problems) == bool(said)


def two_simulations(**changes):
    """A config with a second simulation at the port COLD, and more lines for the sections."""
    heat = CONFIG[CONFIG.index("[HEAT]") : CONFIG.index("[PCA]")]
    ports = "[[SIMULATION]]\n        IMPLEMENTATION = HEAT\n"
    assert ports in CONFIG
    second = heat.replace("[HEAT]", "[OTHER]") + changes.get("cold", "")
    text = CONFIG.replace("[PCA]", f"{changes.get('hot', '')}{second}[PCA]", 1)
    text = text.replace(ports, f"{ports}    [[COLD]]\n        IMPLEMENTATION = OTHER\n", 1)
    return text.replace("SIMULATION ANALYTICS", "SIMULATION COLD ANALYTICS", 1)


def test_checkpoints_of_two_simulations_do_not_overwrite_each_other(files):
    """IPS keeps them by class and name of the component, whatever its port is."""
    roomy = [("CORES_PER_NODE = 8", "CORES_PER_NODE = 32")]
    shape = ("SHAPE = 64, 32\n", "SHAPE = 64, 32\nSIMULATION = COLD\n")
    kept = "RESTART_FILES = state.npy\n"
    problems, _ = files(shape, text=two_simulations(hot=kept, cold=kept), platform=roomy)
    (problem,) = problems
    assert "keeps state.npy of [HEAT] and of this section in one place" in str(problem)
    assert "SUB_CLASS = cold" in str(problem)
    for other in ("RESTART_FILES = other.npy\n", ""):
        problems, _ = files(shape, text=two_simulations(hot=kept, cold=other), platform=roomy)
        assert not problems, config.explain(problems)
    text = two_simulations(hot=kept, cold=kept)
    head, tail = text.split("[OTHER]")
    text = head + "[OTHER]" + tail.replace("SUB_CLASS =\n", "SUB_CLASS = cold\n", 1)
    problems, _ = files(shape, text=text, platform=roomy)
    assert not problems, config.explain(problems)


def test_arrays_of_several_simulations(files):
    """An array that the config describes must say whose it is."""
    text = two_simulations()
    roomy = [("CORES_PER_NODE = 8", "CORES_PER_NODE = 32")]
    problems, _ = files(text=text, platform=roomy)
    assert "which of the simulations puts this array" in config.explain(problems)
    shape = "SHAPE = 64, 32\n"
    problems, _ = files((shape, f"{shape}SIMULATION = COAL\n"), text=text, platform=roomy)
    assert "did you mean COLD" in config.explain(problems)
    problems, (run,) = files((shape, f"{shape}SIMULATION = COLD\n"), text=text, platform=roomy)
    assert not problems, config.explain(problems)
    assert [each.port for each in run.simulations] == ["SIMULATION", "COLD"]


def test_a_simulation_that_may_be_left_out(files):
    """Others must be there, and its arrays must have a NaN."""
    optional = "ON_FAILURE = leave_out\n"
    problems, _ = files(("NPROC = 4", f"NPROC = 4\n{optional}"))
    assert "leave_out needs other simulations" in config.explain(problems)
    roomy = [("CORES_PER_NODE = 8", "CORES_PER_NODE = 32")]
    text = two_simulations(cold=optional)
    shape = ("SHAPE = 64, 32\n", "SHAPE = 64, 32\nSIMULATION = COLD\n")
    problems, (run,) = files(shape, text=text, platform=roomy)
    assert not problems, config.explain(problems)
    assert [each.on_failure for each in run.simulations] == ["fail", "leave_out"]
    integers = (shape[0], f"{shape[1]}DTYPE = int32\n")
    problems, _ = files(integers, text=text, platform=roomy)
    assert "int32 has no NaN to stand for what COLD" in config.explain(problems)


def test_everything_is_read(files):
    problems, (run,) = files()
    assert not problems, config.explain(problems)
    (simulation,), (analytics,) = run.simulations, run.analytics
    assert run.times.n_steps == 200
    assert run.log_file == "/tmp/heat/heat.log"
    assert simulation.nproc == 4
    assert simulation.arguments(NSTEP=200) == ["heat.py", "--steps", "200", "--tag", "one"]
    assert simulation.environment == {"OMP_NUM_THREADS": "1", "MODE": "fast"}
    assert analytics.n_receivers == 2
    assert analytics.analysis_args == {"n_components": 4, "solver": "full", "weights": [1, 2.5]}
    assert analytics.lanes == ("tcp",)
    (array,) = analytics.arrays
    assert array.chunks == (1, 32, -1)
    assert array.description(200) == {
        "name": "temperature",
        "dtype": "float64",
        "shape": [64, 32],
        "steps": {"start": 0, "every": 10, "count": 20},
        "dims": ["y", "x"],
        "attrs": {"units": "K"},
        "ragged": False,
    }
    flat = run.parameters()
    assert flat["HEAT.NPROC"] == 4
    assert flat["PCA.ARRAYS.temperature.POLICY"] == "drop"
    assert flat["TIME_LOOP.N_STEPS"] == 200


@pytest.mark.parametrize(
    ("old", "new", "where", "said", "remedy"),
    [
        ("NPROC = 4", "NPROC = four", "[HEAT] NPROC", "expected a whole number >= 1", "NPROC = 4"),
        ("NPROC = 4", "NPROC = 0", "[HEAT] NPROC", "got '0'", ""),
        ("    EXECUTABLE = /bin/sh\n", "", "[HEAT] EXECUTABLE", "is missing", "add the line"),
        (
            "EXECUTABLE =",
            "EXECUTEABLE =",
            "[HEAT] EXECUTEABLE",
            "is not a parameter",
            "EXECUTABLE?",
        ),
        ("EXECUTABLE =", "EXECUTEABLE =", "[HEAT] EXECUTABLE", "is missing", "EXECUTEABLE?"),
        ("/bin/sh", "/bin/nothing", "[HEAT] EXECUTABLE", "is not an executable file", "absolute"),
        ("DASK_PPW = 1", "DASK_PWP = 1", "[PCA] DASK_PWP", "is not a parameter", "DASK_PPW?"),
        ("MODE=fast", "fast", "[HEAT] ENVIRONMENT", "'fast' is no NAME=value", ""),
        ("my_analysis:mean", "my_analysis.mean", "[PCA] ANALYSIS", "package.module:function", ""),
        ("my_analysis:mean", "no_module:mean", "[PCA] ANALYSIS", "no module 'no_module'", "INPUT"),
        ("my_analysis:mean", "my_analysis:maen", "[PCA] ANALYSIS", "no function 'maen'", "mean?"),
        ("LANES = tcp", "LANES = udp", "[PCA] LANES", "one or more of shm, tcp", ""),
        (
            "[[ARRAYS]]",
            "[[ARAYS]]",
            "[PCA] ARAYS",
            "sub-section that no component reads",
            "ARRAYS?",
        ),
        ("SHAPE = 64, 32", "SHAPE = 64, no", "temperature] SHAPE", "whole numbers >= 1", ""),
        ("DIMS = y x", "DIMS = z y x", "temperature] DIMS", "expected 2 entries", ""),
        ("CHUNKS = 1, 32, -1", "CHUNKS = 32, -1", "temperature] CHUNKS", "3 entries, time", ""),
        ("= 2, 2", "= 2, 3", "temperature] DECOMPOSITION", "has 6 blocks", "product"),
        ("[[[temperature]]]", "[[[my/field]]]", "[my/field]", "letters, digits", "rename"),
        ("DIMS = y x", "DTYPE = object", "temperature] DTYPE", "NumPy type of fixed size", ""),
        ("DIMS = y x", "DTYPE = floot", "temperature] DTYPE", "got 'floot'", "float64"),
        ("DIMS = y x", "DIMS = y y", "temperature] DIMS", "('time', 'y', 'y')", ""),
        ("DIMS = y x", "DIMS = time x", "temperature] DIMS", "that the steps make", "space"),
        ("CHUNKS = 1, 32, -1", "CHUNKS = 1, 0, -1", "temperature] CHUNKS", "0", ""),
        ("CHUNKS = 1, 32, -1", "CHUNKS = 1, (30, 30), -1", "temperature] CHUNKS", "64", ""),
        ("= 2, 2", "= 128, 1", "temperature] DECOMPOSITION", "128", ""),
        ("solver=full", "sovler=full", "[PCA] ANALYSIS_ARGS", "takes no argument", "solver?"),
        ("my_analysis:mean", "my_analysis:least", "[PCA] ANALYSIS_ARGS", "needs the", "bound="),
        ("my_analysis:mean", "my_analysis:empty", "[PCA] ANALYSIS", "no positional", "arrays"),
        ("my_analysis:mean", "broken:mean", "[PCA] ANALYSIS", "broken.py, line 2: ", "correct"),
        ("my_analysis:mean", "misspelt:mean", "[PCA] ANALYSIS", "line 1: there is no", "correct"),
        ("my_analysis:mean", "my_analysis:forgets", "[PCA] ANALYSIS", "returns nothing", "lazy"),
        ("/bin/sh\n", "python\n", "[HEAT] ARGS", "'heat.py' is a relative path", "$PWD/heat.py"),
        ("/tmp/heat\n", "/dev/null/heat\n", "SIM_ROOT", "/dev/null is no directory", ""),
        (
            "STEPS = 0:200:10",
            "STEPS = 0::10\n            AT_MOST = True",
            "temperature] AT_MOST",
            "no number of steps",
            "STEPS = 0:1000",
        ),
        ("DIMS = y x", "LEVELS = 3", "temperature] LEVELS", "[64, 32] are no blocks", "-1, 8"),
        ("SHAPE = 64, 32", "LEVELS = 3", "temperature] LEVELS", "SHAPE is not", "add SHAPE"),
        ("CHUNKS = 1,", "AT_MOST = True\n            CHUNKS = 2,", "] CHUNKS", "one step", ""),
        ("POLICY = drop", "POLICY = wait", "temperature] POLICY", "one of block, drop", ""),
        ("NSTEP = 200", "NSTEPS = 200", "[TIME_LOOP] NSTEPS", "is not a parameter", "NSTEP?"),
        ("NAMES = DRIVER", "NAMES = DRIVE", "[PORTS] NAMES", "has no DRIVER", ""),
        ("NAMES = DRIVER", "NAMES = DRIVE", "[PORTS] DRIVE", "has no sub-section", "DRIVER?"),
        ("DRIVER SIMULATION A", "DRIVER, SIMULATION, A", "[PORTS] NAMES", "got commas", "NAMES ="),
        ("    NAMES =", "    NAME =", "[PORTS] NAMES", "is missing", "NAME?"),
        ("ION = HEAT", "ION = HAET", "[PORTS][SIMULATION] IMPL", "does not exist", "HEAT?"),
        ("IMPLEMENTATION = PCA", "", "[PORTS][ANALYTICS] IMPLEMENTATION", "is missing", ""),
        ("[PORTS]", "[PORT]", "PORTS", "the section is missing", ""),
        ("ips_components.simulation", "ips_components.simulaton", "[HEAT] MODULE", "no module", ""),
        ("ips_components.driver", "ips_components.drivr", "[DRIVER] MODULE", "no mod", "driver?"),
        ("ips_components.driver", "ips_component.driver", "[DRIVER] MODULE", "no mod", "driver?"),
        ("NAME = Simulation", "NAME = Simulatoin", "[HEAT] NAME", "has no class", "Simulation?"),
        ("    MODULE = ips_components.driver\n", "", "[DRIVER] MODULE", "is missing, and", ""),
        ("    INPUT_FILES =\n", "    INPUT_FILES = a.dat\n", "[DRIVER] INPUT_FILES", "a.dat", ""),
        ("    CLASS = test\n", "", "[DRIVER] CLASS", "is missing", ""),
        ("    BIN_PATH =\n", "", "[DRIVER] BIN_PATH", "be it empty", ""),
        ("/tmp/heat\n", "heat\n", "SIM_ROOT", "expected an absolute path", "$PWD/heat"),
        ("$SIM_ROOT/heat.log", "$SIM_RUT/heat.log", "LOG_FILE", "SIM_RUT", "must be defined"),
        ("SIM_NAME = heat\n", "", "SIM_NAME", "is missing", ""),
        ("= NORMAL", "= RESTART", "RESTART_ROOT", "SIMULATION_MODE = RESTART", "checkpoint"),
        ("MODE = REGULAR", "MODE = EXPLICIT", "[TIME_LOOP] VALUES", "is missing", ""),
    ],
)
def test_what_is_wrong_is_said_with_where_and_remedy(files, old, new, where, said, remedy):
    problems, _ = files((old, new))
    texts = [str(problem) for problem in problems]
    assert any(where in t and said in t and remedy in t for t in texts), config.explain(problems)
    assert all("heat.config" in text for text in texts)


def test_a_program_that_is_not_where_ips_starts_says_what_pwd_is(files):
    here = Path.cwd()
    problems, _ = files(("/bin/sh\n", "python\n"), ("heat.py", f"{here}/heat.py"))
    text = config.explain(problems)
    assert f"there is no file '{here}/heat.py'" in text
    assert f"$PWD is the directory where ips.py starts, {here}" in text
    problems, _ = files(("/bin/sh\n", "python\n"), ("heat.py", "/nowhere/heat.py"))
    text = config.explain(problems)
    assert "there is no file '/nowhere/heat.py'" in text and "$PWD" not in text


def test_blocks_of_a_mesh_come_with_their_table(files):
    problems, (run,) = files(
        (
            "SHAPE = 64, 32",
            "SHAPE = -1, 64, 32\n            LEVELS = 3\n            REFINEMENT = 4",
        ),
        ("DIMS = y x", "DIMS = block y x"),
        ("DECOMPOSITION = 2, 2", ""),
        ("HALO = 1", ""),
        ("CHUNKS = 1, 32, -1", ""),
    )
    assert not problems
    (array,) = run.analytics[0].arrays
    whole, table = array.descriptions(None)
    assert whole["attrs"] == {"units": "K", "block_levels": 3, "block_refinement": 4}
    assert (table["name"], table["shape"]) == ("temperature.blocks", [-1, 3])
    assert table["steps"] == whole["steps"] == {"start": 0, "every": 10, "count": 20}


def test_all_problems_are_found_at_once(files):
    problems, _ = files(("NPROC = 4", "NPROC = x"), ("= tcp", "= x"), ("NAME = Driver", "NAME = D"))
    assert {(each.section, each.name) for each in problems} >= {
        ("HEAT", "NPROC"),
        ("PCA", "LANES"),
        ("DRIVER", "NAME"),
    }


def test_load_raises_with_all_of_it(files, tmp_path):
    files(("NPROC = 4", "NPROC = x"), ("= tcp", "= x"))
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*NPROC.*LANES"):
        config.load(tmp_path / "heat.config", tmp_path / "machine.conf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("CORES_PER_NODE = 8", "CORES_PER_NODE = 4"), "so that both would wait for ever"),
        (("CORES_PER_NODE = 8", "CORES_PER_NODE = 2"), "4 processes asked for"),
        (("= SHARED", "= EXCLUSIVE"), "holds whole nodes that it needs"),
        (("CORES_PER_NODE = 8", "CORES_PER_NODE = x"), "expected a whole number"),
        (("MPIRUN = mpiexec\n", ""), "is missing"),
        (("= manual", "= guess"), "one of manual, slurm_env"),
    ],
)
def test_platform_and_resources(files, change, said):
    problems, _ = files(platform=[change])
    assert said in config.explain(problems)


def test_two_nodes_given_whole_are_enough(files):
    problems, _ = files(platform=[("= SHARED", "= EXCLUSIVE\nNODES = 2\nPROCS_PER_NODE = 4")])
    assert not problems, config.explain(problems)


def test_exported_variable_that_shadows_the_platform(files, monkeypatch):
    monkeypatch.setenv("PROCS_PER_NODE", "77")
    problems, _ = files(platform=[("HOST =", "PROCS_PER_NODE = 8\nHOST =")])
    assert "unset PROCS_PER_NODE" in config.explain(problems)


def test_what_may_be_missing_is_not_complained_of(files):
    """A function that commits its results, one that raises, an import that is tried."""
    arguments = ("ANALYSIS_ARGS = n_components=4, solver=full, weights=[1, 2.5]", "FIGURE = True")
    for function in ("commits", "refuses"):
        problems, _ = files(("my_analysis:mean", f"my_analysis:{function}"), arguments)
        assert not problems, config.explain(problems)
    problems, _ = files(("my_analysis:mean", "misspelt:mean"), arguments)
    assert ["'numpi'" in str(each) for each in problems] == [True]
    shifter = ("my_analysis:mean", "misspelt:mean\n    USE_SHIFTER = True")
    assert "numpi" not in config.explain(files(shifter, arguments)[0])


def test_arguments_may_have_spaces(files):
    problems, (run,) = files(('"one"', "'one  two' ''"))
    assert not problems, config.explain(problems)
    assert run.simulations[0].args[-2:] == ("one  two", "")


def test_a_stale_pwd_is_found_where_it_is_used(files, monkeypatch, tmp_path):
    monkeypatch.setenv("PWD", str(tmp_path))
    assert not files()[0]
    problems, _ = files(("/tmp/heat\n", "$PWD/heat\n"))
    assert "the file uses $PWD, which is" in config.explain(problems)
    monkeypatch.chdir(tmp_path)
    assert not files(("/tmp/heat\n", "$PWD/heat\n"))[0]
    monkeypatch.delenv("PWD")
    problems, _ = files(("/tmp/heat\n", "$PWD/heat\n"))
    assert "export PWD" in config.explain(problems)


def test_values_from_the_environment_are_not_said_to_be_the_files(files, monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "trace")
    problems, _ = files()
    (problem,) = problems
    assert "is not in this file, but exported in the environment" in str(problem)
    assert "unset LOG_LEVEL, or give LOG_LEVEL in this file" in str(problem)
    monkeypatch.delenv("LOG_LEVEL")
    monkeypatch.setenv("INPUT_DIR", "/from/the/environment")
    problems, _ = files(("    INPUT_FILES =\n", "    INPUT_FILES = a.dat\n"))
    assert "(INPUT_DIR is exported in the environment)" in config.explain(problems)
    problems, _ = files(("my_analysis:mean", "elsewhere:mean"))
    assert "(/from/the/environment, which is exported in the environment)" in config.explain(
        problems
    )


def test_platform_values_from_the_environment_are_warned_of(files, monkeypatch, tmp_path):
    files()
    monkeypatch.setenv("GPUS_PER_NODE", "1")
    found = config.check_files([tmp_path / "heat.config"], tmp_path / "machine.conf")
    assert not found.errors
    assert "the environment variable GPUS_PER_NODE = 1 is taken" in config.explain(found.warnings)


def test_files_that_cannot_be_read(tmp_path):
    found = config.check_files([tmp_path / "none.config"], tmp_path / "none.conf")
    assert not found.runs
    assert [each.file for each in found.errors] == [
        str(tmp_path / "none.conf"),
        str(tmp_path / "none.config"),
    ]


def test_config_that_is_not_well_formed(files):
    problems, _ = files(text="SIM_NAME = 1\n[[DEEP]]\nno equals sign\n")
    assert "is not well formed" in config.explain(problems)


def test_a_config_without_our_components_may_have_parameters_of_its_own(files):
    problems, (run,) = files(
        ("ips_components.simulation", "json"),
        ("NAME = Simulation", "NAME = JSONDecoder"),
        ("ips_components.driver", "json"),
        ("NAME = Driver", "NAME = JSONEncoder\n TEMPERATURE = 3"),
        ("EXECUTABLE", "ANYTHING"),
    )
    assert not problems, config.explain(problems)
    assert not run.simulations


def test_every_parameter_is_described():
    for each in PARAMETERS:
        assert each.meaning.endswith(".")
        assert each.name.isupper()


def test_examples_are_what_their_types_would_read():
    for each in PARAMETERS:
        if each.type.example:
            each.type.read(each.type.example)


def test_reference_names_every_parameter():
    page = config.reference()
    for each in PARAMETERS:
        assert f"| `{each.name}`" in page


def test_our_components_take_what_every_component_takes():
    sections = {section.__name__: set(declared(section)) for section in config.SECTIONS}
    for ours in ("SimulationConfig", "AnalyticsConfig"):
        assert not sections["ComponentSection"] & sections[ours]


@pytest.mark.parametrize(
    ("type_", "raw", "value"),
    [
        (types.NUMBER, "1 + 2*3", 7.0),
        (types.NUMBER, "-1.5e-3", -0.0015),
        (types.BOOL, "yes", True),
        (types.BOOL, "False", False),
        (types.EXTENTS, ["64", "32"], (64, 32)),
        (types.EXTENTS, "64x32", (64, 32)),
        (types.EXTENTS, "(-1, 3)", (-1, 3)),
        (types.WIDTHS, "1", 1),
        (types.WIDTHS, ["1", "2"], (1, 2)),
        (types.STEPS, "100", {"start": 0, "every": 1, "count": 100}),
        (types.STEPS, "10::5", {"start": 10, "every": 5, "count": None}),
        (types.CHUNKS, "auto", None),
        (types.CHUNKS, "10", (10,)),
        (types.CHUNKS, "(1, (32, 32), -1)", (1, (32, 32), -1)),
        (types.ARGUMENTS, '{"a": 1, "b": [true]}', {"a": 1, "b": [True]}),
        (types.ARGUMENTS, ["a=1", "b='x y'"], {"a": 1, "b": "x y"}),
        (types.ARGUMENTS, ["a=[1", "2]", "b=(3", "4)"], {"a": [1, 2], "b": (3, 4)}),
        (types.PAIRS, "A=1 B='two words'", {"A": "1", "B": "two words"}),
        (types.LIST, ["a.dat", "b.dat"], ("a.dat", "b.dat")),
    ],
)
def test_types_read(type_, raw, value):
    assert type_.read(raw) == value


@pytest.mark.parametrize(
    ("type_", "raw"),
    [
        (types.NUMBER, "__import__('os')"),
        (types.NUMBER, "1/0"),
        (types.TIME_OUT, "0"),
        (types.TIME_OUT, "nan"),
        (types.SHARE, "1.5"),
        (types.STEPS, "10:5"),
        (types.STEPS, "1:2:3:4"),
        (types.EXTENTS, "0"),
        (types.ARGUMENTS, "{broken"),
    ],
)
def test_types_refuse(type_, raw):
    with pytest.raises(ValueError):
        type_.read(raw)


@given(st.text(max_size=40), st.sampled_from([each.type for each in PARAMETERS]))
def test_no_text_breaks_a_type(text, type_):
    with contextlib.suppress(ValueError):
        type_.read(text)


# -- any driver, many launches ---------------------------------------------------------------

COMMON = "BIN_PATH =\n    INPUT_FILES =\n    OUTPUT_FILES =\n    SCRIPT =\n    MODULE ="


def replaced(name, module, nproc):
    """Changes that put a component of an unknown class in the place of one of ours."""
    return tuple(
        f"NAME = {each}\n    NPROC = {nproc}\n    {COMMON} {where}"
        for each, where in (
            (name, f"ips_components.{module}"),
            ("Component", "ipsframework.component"),
        )
    )


ANY_DRIVER = replaced("Driver", "driver", 1)
FOREIGN = replaced("Simulation", "simulation", 4)
HEAT = "EXECUTABLE = /bin/sh\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            [(HEAT, HEAT + "    STEPS_PER_LAUNCH = 30\n")],
            ["STEPS", "STEPS_PER_LAUNCH = 30", "HEAT"],
        ),
        ([(HEAT, HEAT + "    RENUMBER = True\n")], ["RENUMBER", "add STEPS_PER_LAUNCH"]),
        (
            [FOREIGN, (HEAT, "COUPLED = True\n    RENUMBER = yes\n")],
            ["RENUMBER", "add STEPS_PER_LAUNCH"],
        ),
        ([FOREIGN, (HEAT, "COUPLED = True\n    RETRIES = many\n")], ["RETRIES"]),
        ([("UNITS = K", "SIMULATION = HAET")], ["no port of a simulation"]),
        (
            [
                FOREIGN,
                (HEAT, "COUPLED = on\n"),
                ("SIMULATION ANALYTICS\n", "SIMULATION\n"),
            ],
            ["COUPLED", "no port has an analytics"],
        ),
    ],
    ids=["steps", "renumber", "renumber of own", "retries of own", "port", "no analytics"],
)
def test_launches_that_cannot_work_are_refused(files, changes, said):
    problems, _ = files(ANY_DRIVER, *changes)
    text = config.explain(problems)
    for words in said:
        assert words in text


def test_simulations_that_any_driver_may_launch_in_turn_need_not_fit_together(files):
    """Two of four ranks each beside a worker on six slots; under our driver they run at once."""
    second = CONFIG[CONFIG.index("[HEAT]") : CONFIG.index("[PCA]")].replace("[HEAT]", "[OTHER]")
    port = "    [[OTHER]]\n        IMPLEMENTATION = OTHER\n"
    array = "        [[[other]]]\n            SHAPE = 4,\n            SIMULATION = OTHER\n"
    changes = [
        ("SIMULATION ANALYTICS\n", f"SIMULATION OTHER ANALYTICS\n{port}"),
        ("[PCA]", second + "[PCA]"),
        ("SHAPE = 64, 32", "SIMULATION = SIMULATION\n            SHAPE = 64, 32"),
        ("UNITS = K\n", f"UNITS = K\n{array}"),
    ]
    slots = [("CORES_PER_NODE = 8", "CORES_PER_NODE = 6")]
    problems, _ = files(ANY_DRIVER, *changes, platform=slots)
    assert not problems, config.explain(problems)
    problems, _ = files(*changes, platform=slots)
    assert "does not fit on the platform" in config.explain(problems)


@pytest.mark.parametrize("steps", ["0:200:10", "0:50:10", "0:100"])
def test_arrays_may_have_the_steps_of_one_launch_or_of_several(files, steps):
    problems, _ = files(
        ANY_DRIVER,
        (HEAT, HEAT + "    STEPS_PER_LAUNCH = 50\n"),
        ("STEPS = 0:200:10", f"STEPS = {steps}"),
    )
    assert not problems, config.explain(problems)
