"""The engine for ADIOS2: programs that know ADIOS2 only, against real receivers."""

import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from c_ranks import RUN, coupling

from ips_components.bridge import _adios2
from ips_components.errors import BridgeError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis

adios2 = pytest.importorskip("adios2", reason="needs the Python package adios2")
pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("c++") and shutil.which("cc")), reason="needs C and C++ compilers"
    ),
    pytest.mark.timeout(300),
]

HERE = Path(__file__).parent
STEPS, SIZE = 3, 2
LIMIT = 60


@pytest.fixture(scope="module")
def engine(once):
    """The engine, compiled for the ADIOS2 of this Python."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ADIOS2_ROOT", "ADIOS2_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("CFLAGS", "-O0")
        patch.setenv("CXXFLAGS", "-O0 -Wall -Wextra -Werror")

        def compile_in(place):
            patch.setenv("XDG_CACHE_HOME", str(place))
            return _adios2.engine()

        return compile_in(once("adios2_engine", compile_in))


@pytest.fixture(scope="module")
def program(once):
    """The program, which links ADIOS2 and nothing of ours."""
    return once("adios2_writer", link) / "writer"


def link(place):
    """Compile the program into a directory."""
    found, out = _adios2.find(), place / "writer"
    libraries = [*found.link_flags, f"-l:{cxx(found).name}", "-Wl,--allow-shlib-undefined"]
    command = ["c++", "-std=c++17", "-O0", *found.flags, HERE / "adios2_writer.cpp", "-o", out]
    run([*command, *libraries])


def cxx(found):
    """The library of the public classes, which has two names."""
    folder = found.libraries[0].parent
    return next(p for name in ("cxx", "cxx11") for p in folder.glob(f"libadios2_{name}.so.*.*"))


def run(command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=200, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr


def config(path, library, **parameters):
    """An XML file that gives the engine to both IOs."""
    fields, diagnostics = parameters.pop("fields", {}), parameters.pop("diagnostics", {})
    both = {"PluginName": "ips", "PluginLibrary": library, "Steps": STEPS, **parameters}
    text = "<?xml version='1.0'?><adios-config>"
    for name, own in (("fields", fields), ("diagnostics", diagnostics)):
        text += f"<io name='{name}'><engine type='plugin'>"
        for key, value in {**both, **own}.items():
            text += f"<parameter key='{key}' value='{value}'/>"
        text += "</engine></io>"
    path.write_text(text + "</adios-config>")
    return path


def offered(sink):
    """The arrays that rank 0 has described."""
    sink.wait(lambda: sink.arrays, LIMIT)
    return [
        ArraySpec(
            **{**one, "shape": tuple(one["shape"]), "steps": StepAxis(**one["steps"])},
        )
        for one in sink.arrays[0]
    ]


@contextmanager
def ranks(command, contact, size=SIZE, **environment):
    """The program on some ranks, which the environment tells as a launcher would."""
    started = []
    for rank in range(size):
        launcher = environment or {"PMI_RANK": "{rank}", "PMI_SIZE": str(size)}
        if "mpiexec" in command:
            launcher = {}
        variables = {
            **os.environ,
            "IPS_COMPONENTS_CONTACT": str(contact),
            **{name: value.format(rank=rank) for name, value in launcher.items()},
        }
        words = [str(word).format(rank=rank) for word in command]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, env=variables, stderr=pipe, stdout=pipe, text=True))
    try:
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def ended(started):
    """Exit status and words of all ranks."""
    said = [one.communicate(timeout=LIMIT) for one in started]
    return [one.returncode for one in started], [text for _, text in said]


def coupled(program, engine, tmp_path, sink, *, wanted=None, extra=(), check=True, **parameters):
    """Run the program with a contract for some of what it offers; contract and ends."""
    limits = {"contract": LIMIT, "connect": 20.0}
    with coupling(tmp_path, [sink], deadlines=limits) as (contact, (receiver,)):
        file = config(tmp_path / "config.xml", engine, **parameters)
        launcher = program if isinstance(program, list) else [program]
        command = [*launcher, file, tmp_path / "out{rank}", "{rank}", SIZE, STEPS, *extra]
        with ranks(command, contact, 1 if len(launcher) > 1 else SIZE) as started:
            watch = threading.Event()
            while not sink.arrays and any(one.poll() is None for one in started):
                watch.wait(0.02)
            contract = None
            if sink.arrays:
                specs = [s for s in offered(sink) if wanted is None or s.name in wanted]
                contract = Contract(RUN, tuple(ArrayContract.agree(s, run=RUN) for s in specs))
                receiver.set_contract(contract)
            codes, texts = ended(started)
        if check:
            assert codes == [0] * SIZE, texts
        return contract, codes, texts


def field(contract, sink, name):
    """All steps of an array, joined; a list of steps for rows."""
    ordinal = [array.spec.name for array in contract.arrays].index(name)
    array = contract.arrays[ordinal]
    mine = {chunk: value for (number, chunk), value in sink.chunks.items() if number == ordinal}
    if array.spec.ragged:
        return [np.array(mine[step][0]) for step in range(STEPS)]
    whole = np.zeros(array.cover.count, array.spec.dtype)
    for chunk, value in mine.items():
        whole[array.chunk_selection(chunk).within(array.cover).to_slices()] = value
    return whole


TYPES = {
    "i1": "<i1",
    "i2": "<i2",
    "u1": "<u1",
    "u2": "<u2",
    "u4": "<u4",
    "u8": "<u8",
    "c": "<i1",
    "f16": np.dtype(np.longdouble).str,
    "c8": "<c8",
    "c16": "<c16",
}


def rows_of(step, width, value):
    """Rows of all ranks in their order, as the program makes them."""
    return np.concatenate(
        [np.full((1 + (rank + step) % 3, width), value(rank)) for rank in range(SIZE)]
    )


def test_every_form_of_variable_arrives(program, engine, sinks, tmp_path):
    (sink,) = sinks()
    contract, _, _ = coupled(program, engine, tmp_path, sink, Ragged="particles", wanted=None)
    specs = {array.spec.name: array.spec for array in contract.arrays}
    step, row = np.arange(STEPS), np.arange(4 * SIZE)

    expected = 1000 * step[:, None, None] + 10 * row[:, None] + np.arange(6)
    np.testing.assert_array_equal(field(contract, sink, "T"), expected)
    ghost = 100 * step[:, None, None] + 10 * np.arange(3 * SIZE)[:, None] + np.arange(5)
    np.testing.assert_array_equal(field(contract, sink, "ghost"), ghost)
    two = 10 * step[:, None, None] + np.arange(2 * SIZE)[:, None] + np.zeros(4)
    np.testing.assert_array_equal(field(contract, sink, "two"), two)
    np.testing.assert_array_equal(field(contract, sink, "time"), 0.25 * step)
    np.testing.assert_array_equal(
        field(contract, sink, "mine"), step[:, None] + 10 * np.arange(SIZE)
    )
    for name, dtype in TYPES.items():
        assert np.dtype(specs[name].dtype) == np.dtype(dtype), name
        line = step[:, None] + np.arange(2 * SIZE)
        np.testing.assert_array_equal(field(contract, sink, name), line.astype(dtype), name)
    np.testing.assert_array_equal(field(contract, sink, "energy"), 3.0 * step)
    np.testing.assert_array_equal(
        field(contract, sink, "second"), np.arange(SIZE) + 0.5 * step[:, None]
    )
    np.testing.assert_array_equal(
        field(contract, sink, "group.odd_name"), np.tile(np.arange(SIZE) + 0.5, (STEPS, 1))
    )
    for each in range(STEPS):
        rows = rows_of(each, 2, lambda rank, each=each: 10 * rank + each)
        if each == 1:
            rows = rows[rows[:, 0] >= 10]
        np.testing.assert_array_equal(field(contract, sink, "rows")[each], rows)
        joined = rows_of(each, 2, lambda rank, each=each: rank + 10 * each)
        np.testing.assert_array_equal(field(contract, sink, "joined")[each], joined)
        found = field(contract, sink, "particles")[each]
        np.testing.assert_array_equal(found, 100 * each + np.arange(len(found)))
        assert len(found) == len(rows_of(each, 1, float))

    attrs = specs["T"].attrs
    assert attrs == {
        "units": "K", "dx": 0.5, "grid": [4, 6], "code": "writer", "label": "step 0",
    }  # fmt: skip
    assert specs["time"].attrs == {"code": "writer", "label": "step 0"}
    assert specs["energy"].attrs == {}
    assert all(bye.status == "ok" for bye in sink.byes.values())


def test_what_nobody_wants_costs_nothing(program, engine, sinks, tmp_path):
    """And may be of any shape: only what is wanted must be what it was."""
    (sink,) = sinks()
    contract, _, _ = coupled(
        program, engine, tmp_path, sink, wanted={"ghost", "time"}, extra=["shape"]
    )
    assert field(contract, sink, "time").tolist() == [0, 0.25, 0.5]
    assert len(contract.arrays) == 2
    assert {ordinal for ordinal, _ in sink.chunks} == {0, 1}


@pytest.mark.parametrize(
    ("wrong", "parameters", "words"),
    [
        ("shape", {}, ["IO fields, variable T, step 1, rank 0", "type or shape", "Ragged"]),
        ("span", {}, ["variable T: ADIOS2 has no memory for the span", "Put(variable, array)"]),
        ("clash", {}, ["variable T of IO fields", "diagnostics would both be array T", "Prefix"]),
        ("", {"Stepz": 3}, ["IO fields: unknown engine parameter Stepz; there are Steps"]),
        ("", {"Steps": "many"}, ["engine parameter Steps: expected the number of steps"]),
        ("", {"Order": "any"}, ["engine parameter Order: expected row or column, got any"]),
        ("", {"Ragged": "T", "OwnSteps": "T"}, ["variable T is in Ragged and in OwnSteps"]),
        ("", {"Contact": "/none.json"}, ["no contact file at /none.json"]),
    ],
)
def test_what_cannot_be_is_refused(program, engine, sinks, tmp_path, wrong, parameters, words):
    (sink,) = sinks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPS_COMPONENTS_DEADLINE", "0.5")
        _, codes, texts = coupled(
            program, engine, tmp_path, sink, extra=[wrong], check=False, **parameters
        )
    assert codes == [1] * SIZE
    for word in words:
        assert word in texts[0]


def test_an_engine_that_is_not_closed_ends_the_run_as_failed(program, engine, sinks, tmp_path):
    (sink,) = sinks()
    coupled(program, engine, tmp_path, sink, extra=["not closed"], Ragged="particles", check=False)
    assert {bye.status for bye in sink.byes.values()} == {"aborted"}
    assert "was not closed" in sink.byes[0].reason


def test_names_with_a_prefix(program, engine, sinks, tmp_path):
    (sink,) = sinks()
    contract, _, _ = coupled(
        program, engine, tmp_path, sink, extra=["clash"], diagnostics={"Prefix": "diag."},
        wanted={"T", "diag.T"},
    )  # fmt: skip
    assert field(contract, sink, "diag.T")[1].tolist() == [0.5, 1.5]


def test_dimensions_in_the_order_of_fortran(program, engine, sinks, tmp_path):
    (sink,) = sinks()
    contract, _, _ = coupled(
        program, engine, tmp_path, sink, wanted={"T", "ghost"}, fields={"Order": "column"}
    )
    shapes = {array.spec.name: array.spec.shape for array in contract.arrays}
    assert shapes == {"T": (6, 4 * SIZE), "ghost": (5, 3 * SIZE)}
    found = field(contract, sink, "T")
    for rank in range(SIZE):
        cells = 10 * (4 * rank + np.arange(4)[:, None]) + np.arange(6)
        for step in range(STEPS):
            block = found[step, :, 4 * rank : 4 * rank + 4]
            np.testing.assert_array_equal(block, 1000 * step + cells.reshape(6, 4))


def test_ranks_without_cells(engine, sinks, tmp_path):
    (sink,) = sinks()
    contract, codes, texts = python(engine, tmp_path, sink, "one has all", Steps=STEPS)
    assert codes == [0, 0], texts
    np.testing.assert_array_equal(
        field(contract, sink, "u"), np.arange(STEPS)[:, None] + np.zeros(4)
    )


# -- programs in Python ----------------------------------------------------------------------------

PYTHON = """
import sys
import adios2
import numpy as np

config, out, rank, size, how = sys.argv[1:]
rank, size = int(rank), int(size)
io = adios2.Adios(config).declare_io("fields")
cells = np.zeros((2, 3))
if how == "read":
    adios2.Stream(io, out, "r")
elif how == "at once":
    v = io.define_variable("u", cells, [2 * size, 3], [2 * rank, 0], [2, 3])
    with io.open(out, adios2.bindings.Mode.Write) as engine:
        engine.put(v, cells + rank)
elif how == "one has all":  # rank 1
    n = 4 * rank
    with adios2.Stream(io, out, "w") as stream:
        for step in stream.steps(3):
            line = np.full(n, float(step.current_step()))
            stream.write("u", line, [4], [0], [n])
elif how == "again":
    for _ in range(2):
        with adios2.Stream(io, out, "w") as stream:
            stream.write("u", cells + rank, [2 * size, 3], [2 * rank, 0], [2, 3])
else:
    with adios2.Stream(io, out, "w") as stream:
        for step in stream.steps(3 if how != "seldom" else 9):
            if how == "seldom" and step.current_step() % 3:
                continue
            cells[:] = 100 * step.current_step() + rank
            stream.write("u", cells, [2 * size, 3], [2 * rank, 0], [2, 3])
            stream.write("t", np.array(0.5 * step.current_step()))
"""


def python(engine, tmp_path, sink, how, *, size=2, environment=None, yaml=False, **parameters):
    """Run the program in Python; contract, exit codes, what was said."""
    (tmp_path / "program.py").write_text(PYTHON)
    file = config(tmp_path / "config.xml", engine, **parameters)
    if yaml:
        file = tmp_path / "config.yaml"
        file.write_text(
            f"- IO: fields\n  Engine:\n    Type: plugin\n    PluginName: ips\n"
            f"    PluginLibrary: {engine}\n    Steps: {STEPS}\n"
        )
    limits = {"contract": LIMIT, "connect": 20.0}
    with coupling(tmp_path, [sink], deadlines=limits) as (contact, (receiver,)):
        command = [shutil.which("python"), tmp_path / "program.py", file, tmp_path / "out"]
        with ranks(
            [*command, "{rank}", size, how], contact, size, **(environment or {})
        ) as started:
            watch = threading.Event()
            while not sink.arrays and any(one.poll() is None for one in started):
                watch.wait(0.02)
            contract = None
            if sink.arrays:
                agreed = tuple(ArrayContract.agree(spec, run=RUN) for spec in offered(sink))
                contract = Contract(RUN, agreed)
                receiver.set_contract(contract)
            return (contract, *ended(started))


@pytest.mark.parametrize("yaml", [False, True], ids=["xml", "yaml"])
def test_a_program_in_python(engine, sinks, tmp_path, yaml):
    (sink,) = sinks()
    contract, codes, texts = python(engine, tmp_path, sink, "steps", yaml=yaml)
    assert codes == [0, 0], texts
    expected = 100 * np.arange(STEPS)[:, None, None] + np.repeat([0, 1], 2)[:, None] + np.zeros(3)
    np.testing.assert_array_equal(field(contract, sink, "u"), expected)
    np.testing.assert_array_equal(field(contract, sink, "t"), [0, 0.5, 1])


def test_a_program_without_steps_has_one(engine, sinks, tmp_path):
    (sink,) = sinks()
    contract, codes, texts = python(engine, tmp_path, sink, "at once", Steps=1)
    assert codes == [0, 0], texts
    assert field(contract, sink, "u")[0, :, 0].tolist() == [0, 0, 1, 1]


def test_variables_count_their_own_steps(engine, sinks, tmp_path):
    """As a reader of BP files selects steps: those in which the variable is."""
    (sink,) = sinks()
    contract, codes, texts = python(engine, tmp_path, sink, "seldom", OwnSteps="u, t")
    assert codes == [0, 0], texts
    assert field(contract, sink, "u")[:, 0, 0].tolist() == [0, 300, 600]
    assert field(contract, sink, "t").tolist() == [0, 1.5, 3]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("read", "is opened for reading, but this engine hands data to a running analysis"),
        ("again", "all engines of this process were closed before"),
    ],
)
def test_what_the_engine_is_not_for(engine, sinks, tmp_path, how, words):
    (sink,) = sinks()
    _, codes, texts = python(engine, tmp_path, sink, how, Steps=1)
    assert codes == [1, 1]
    assert words in texts[0]


LAUNCHERS = {
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "{rank}", "OMPI_COMM_WORLD_SIZE": "2"},
    "MVAPICH": {"MV2_COMM_WORLD_RANK": "{rank}", "MV2_COMM_WORLD_SIZE": "2"},
    "Slurm": {"SLURM_PROCID": "{rank}", "SLURM_STEP_NUM_TASKS": "2"},
    "PMIx": {"PMIX_RANK": "{rank}", "SLURM_STEP_NUM_TASKS": "2"},
    "by hand": {"IPS_BRIDGE_RANK": "{rank}", "IPS_BRIDGE_SIZE": "2", "PMI_RANK": "7"},
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launcher_says_who_is_which_rank(engine, sinks, tmp_path, launcher):
    (sink,) = sinks()
    contract, codes, texts = python(
        engine, tmp_path, sink, "at once", environment=LAUNCHERS[launcher], Steps=1
    )
    assert codes == [0, 0], texts
    assert field(contract, sink, "u")[0, :, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PMI_RANK": "2", "PMI_SIZE": "2"}, "PMI_RANK is 2, but PMI_SIZE is 2"),
        ({"PMI_RANK": "first", "PMI_SIZE": "2"}, "PMI_RANK is expected to be a number of ranks"),
    ],
)
def test_a_launcher_that_makes_no_sense(engine, sinks, tmp_path, variables, words):
    (sink,) = sinks()
    _, codes, texts = python(engine, tmp_path, sink, "at once", environment=variables)
    assert codes == [1, 1]
    assert words in texts[0]


# -- finding ADIOS2 --------------------------------------------------------------------------------


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """No ADIOS2 anywhere."""
    for name in ("ADIOS2_ROOT", "ADIOS2_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_adios2.importlib.util, "find_spec", lambda name: None)


def prefix(path, version=(2, 11), libraries=("core",)):
    """A folder that looks like an installed ADIOS2."""
    header = path / "include" / "adios2" / "common" / "ADIOSConfig.h"
    header.parent.mkdir(parents=True)
    parts = zip(("MAJOR", "MINOR"), version, strict=True)
    header.write_text("".join(f"#define ADIOS2_VERSION_{p} {n}\n" for p, n in parts))
    (path / "lib").mkdir()
    for name in libraries:
        for suffix in ("", ".2.11", ".2.11.0"):
            library = path / "lib" / f"libadios2_{name}.so{suffix}"
            library.write_bytes(b"_ZN6adios24core2IO4OpenERKNSt7__cxx11")
    return path


def test_where_adios2_is_looked_for(empty, monkeypatch, tmp_path):
    with pytest.raises(BridgeError, match="no ADIOS2 with headers was found: set ADIOS2_ROOT"):
        _adios2.find()
    monkeypatch.setenv("ADIOS2_DIR", str(tmp_path / "none"))
    with pytest.raises(BridgeError, match=r"ADIOS2_DIR is .*none, but there is no"):
        _adios2.find()
    root = prefix(tmp_path / "root")
    monkeypatch.setenv("ADIOS2_DIR", str(root / "lib" / "cmake" / "adios2"))
    found = _adios2.find()
    assert (found.prefix, found.version) == (root, (2, 11))
    assert [path.name for path in found.libraries] == ["libadios2_core.so.2.11"]
    assert "-D_GLIBCXX_USE_CXX11_ABI=1" in found.flags
    monkeypatch.delenv("ADIOS2_DIR")
    (root / "bin").mkdir()
    script = root / "bin" / "adios2-config"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(root / "bin"))
    assert _adios2.find() == found


@pytest.mark.parametrize(
    ("version", "libraries", "words"),
    [
        ((2, 8), ("core",), "is version 2.8"),
        ((2, 12), ("core",), "no shared library libadios2_cxx"),
    ],
)
def test_an_adios2_that_is_not_fit(empty, monkeypatch, tmp_path, version, libraries, words):
    monkeypatch.setenv("ADIOS2_ROOT", str(prefix(tmp_path / "root", version, libraries)))
    with pytest.raises(BridgeError, match=words):
        _adios2.find()


# -- other builds, other installations -------------------------------------------------------------


def arrived(contract, sink):
    """Whether the program's fields came, and what it says of them."""
    step, row = np.arange(STEPS), np.arange(4 * SIZE)
    expected = 1000 * step[:, None, None] + 10 * row[:, None] + np.arange(6)
    np.testing.assert_array_equal(field(contract, sink, "T"), expected)
    ghost = 100 * step[:, None, None] + 10 * np.arange(3 * SIZE)[:, None] + np.arange(5)
    np.testing.assert_array_equal(field(contract, sink, "ghost"), ghost)
    assert {array.spec.name: array.spec for array in contract.arrays}["T"].attrs["dx"] == 0.5


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs CMake")
def test_cmake_builds_the_engine(program, sinks, tmp_path, monkeypatch):
    for name in ("ADIOS2_ROOT", "ADIOS2_DIR"):
        monkeypatch.delenv(name, raising=False)
    prefix, build = _adios2.find().prefix, tmp_path / "build"
    root, kind = f"-DADIOS2_ROOT={prefix}", "-DCMAKE_BUILD_TYPE=Debug"
    run(["cmake", "-S", _adios2.SOURCES, "-B", build, root, kind])
    run(["cmake", "--build", build])
    run(["cmake", "--install", build, "--prefix", tmp_path / "there"])
    (library,) = (tmp_path / "there").glob("lib*/**/libips_adios2.so")
    (sink,) = sinks()
    contract, _, _ = coupled(program, library, tmp_path, sink, Ragged="particles")
    arrived(contract, sink)


OTHERS = [path for path in os.environ.get("ADIOS2_TEST_PREFIXES", "").split(os.pathsep) if path]


@pytest.mark.skipif(not OTHERS, reason="ADIOS2_TEST_PREFIXES names no other ADIOS2 to test with")
@pytest.mark.parametrize("prefix", OTHERS)
def test_another_adios2(sinks, tmp_path, monkeypatch, prefix):
    """Of any version; where it has MPI, the ranks are those of the engine's communicator."""
    monkeypatch.setenv("ADIOS2_ROOT", prefix)
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("CXXFLAGS", "-O0 -Wall -Wextra -Werror")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found, library, program = _adios2.find(), _adios2.engine(), tmp_path / "writer"
    folder = found.libraries[0].parent
    parts = [cxx(found).name, *(path.name for path in found.libraries)]
    mpi = sorted(folder.glob("libadios2_c*_mpi.so.*.*"), key=lambda path: len(path.name))[:2]
    links = [f"-l:{name}" for name in (*(path.name for path in mpi), *dict.fromkeys(parts))]
    compiler = [shutil.which("mpicxx"), "-DADIOS2_USE_MPI=1"] if mpi else ["c++"]
    command = [*compiler, "-std=c++17", "-O0", *found.flags, HERE / "adios2_writer.cpp"]
    rpath = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-Wl,--allow-shlib-undefined"]
    run([*command, "-o", program, *rpath, *links])
    (sink,) = sinks()
    if not mpi:
        contract, _, _ = coupled(program, library, tmp_path, sink, Ragged="particles")
    else:
        launcher = ["mpiexec", "-n", str(SIZE), program]
        contract, codes, texts = coupled(
            launcher, library, tmp_path, sink, Ragged="particles", check=False
        )
        assert codes == [0], texts
        assert any(hello.hosts for hello in sink.hellos)
    arrived(contract, sink)
