"""Programs find the bridge: `ips-components-config`, make, CMake; in C, C++ and Fortran."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from c_ranks import LIBRARY, agree, compiler, coupling, delivered, expected, spec_of

from ips_components import __version__
from ips_components.bridge import _build, _config
from ips_components.model.spec import ArraySpec, StepAxis

C_PROGRAM = """
#include <ips_bridge.h>
#include <string.h>
int main(void)
{
    ips_bridge *bridge;
    return ips_bridge_open(&bridge, 3, 2) == IPS_BRIDGE_USAGE && !bridge &&
           !strcmp(ips_bridge_version(), IPS_BRIDGE_VERSION) ? 0 : 1;
}
"""

F_PROGRAM = """
program ranks
    use, intrinsic :: iso_c_binding, only: c_f_pointer, c_ptr
    use ips_bridge
    implicit none
    type(bridge) :: b
    type(bridge_array) :: found
    integer, allocatable :: blob(:)
    integer(kind=8) :: cells(0:5, 0:4, 0:2), step
    integer(kind=8), pointer :: out(:, :, :)
    real(8) :: gains(4)
    type(c_ptr) :: memory
    integer :: status, count
    logical :: stop_it
    character(:), allocatable :: text

    call bridge_open(b, 0, 1, status)
    call done('open')
    call bridge_declare(b, 't', 'i8', [4, 5, 3], status, first=10, every=5, steps=4, &
        dims=['x', 'y', 'z'])
    call done('declare')
    call bridge_attribute(b, 't', 'units', 'K', status)
    call done('attribute')
    call bridge_block(b, 't', 'i8', [0, 0, 0], [4, 5, 3], status, halo=[1, 0, 0])
    call done('block')
    call bridge_where(b, text, status)
    call done('where')
    call bridge_ranks(b, text, status)
    call done('ranks')
    call bridge_request(b, blob, status)
    call done('request')
    call bridge_join(b, blob, status)
    call done('join')
    do step = 10, 15, 5
        call fill(cells)
        call bridge_put(b, 't', int(step), cells, status)
        call done('put')
    end do
    step = 20
    call bridge_acquire(b, 't', 20, memory, status)
    call done('acquire')
    call c_f_pointer(memory, out, [6, 5, 3])
    call fill(out)
    call bridge_publish(b, 't', status)
    call done('publish')
    step = 25
    call fill(cells)
    call bridge_put_block(b, 't', 25, cells(:, 0:1, :), [0, 0, 0], [4, 2, 3], status)
    call done('put_block')
    call bridge_find(b, 't', found, status)
    call done('find')
    if (.not. bridge_wants(found, 25)) error stop 'wants'
    call bridge_put_block(found, 25, cells(:, 2:3, :), [0, 2, 0], [4, 2, 3], status)
    call done('put_block by handle')
    call bridge_acquire_block(found, 25, [0, 4, 0], [4, 1, 3], memory, status)
    call done('acquire_block by handle')
    call c_f_pointer(memory, out, [6, 1, 3])
    out = cells(:, 4:4, :)
    call bridge_publish_block(found, memory, status)
    call done('publish_block by handle')
    call bridge_step_end(b, 25, status)
    call done('step_end')
    call bridge_wait(b, status, timeout=5.0d0)
    call done('wait')
    call bridge_receive(b, 'gain', 10, 5.0d0, gains, count, status)
    call done('receive')
    if (count /= 2 .or. nint(100 * gains(2)) /= 25) error stop 'gains'
    call bridge_receive(b, 'none', 10, 0.0d0, gains, count, status)
    if (status /= BRIDGE_NOTHING) error stop 'none'
    if (index(bridge_error(b), 'no value none') == 0) error stop 'words'
    call bridge_should_stop(b, stop_it, status)
    call done('should_stop')
    if (stop_it .or. bridge_lost(b) /= '') error stop 'stopped'
    call bridge_progress(b, status)
    call done('progress')
    call bridge_close(b, status)
    call done('close')
    call bridge_free(b)
contains
    subroutine done(what)
        character(*), intent(in) :: what
        if (status == BRIDGE_OK) return
        print '(3a)', what, ': ', bridge_error(b)
        error stop 1
    end subroutine done

    ! The pattern of remote.c for cells of 8 bytes.
    subroutine fill(a)
        integer(8), intent(inout) :: a(0:, 0:, 0:)
        integer(8) :: g
        integer :: i, j, k, byte
        a = -1
        do k = 0, 2
            do j = 0, 4
                do i = 0, 3
                    g = (k * 5 + j) * 4 + i
                    a(i + 1, j, k) = 0
                    do byte = 0, 7
                        a(i + 1, j, k) = ior(a(i + 1, j, k), &
                            ishft(iand(g * 7 + step * 13 + byte * 31, 255_8), 8 * byte))
                    end do
                end do
            end do
        end do
    end subroutine fill
end program ranks
"""

CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(simulation C{fortran})
find_package(ips_bridge 0.1 REQUIRED PATHS {folder})
add_executable(simulation simulation.c)
target_link_libraries(simulation ips_bridge::ips_bridge)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The user's cache directory, empty; it is filled soon if nothing is optimised."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CFLAGS", "-O0")


def told(capsys, *options):
    assert _config.main(options) == 0
    return capsys.readouterr().out.split()


def run(*command, **options):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, **options
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not compiler(), reason="needs a C compiler")
@pytest.mark.parametrize("language", ["c", "c++"])
def test_a_program_is_compiled_by_the_flags(capsys, tmp_path, language):
    flags, library = told(capsys, "--cflags"), told(capsys, "--libs")
    source = tmp_path / "simulation.c"
    source.write_text(C_PROGRAM)
    program = str(tmp_path / "simulation")
    command = [compiler(), "-x", language, *flags, "-Wall", "-Werror", str(source), "-x", "none"]
    run(*command, *library, "-o", program)
    run(program)
    assert told(capsys, "--libs") == library  # now from the cache
    sources = told(capsys, "--sources")
    run(compiler(), *flags, str(source), *sources, "-o", program)
    run(program)


def test_without_a_compiler_it_says_so(capsys, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert _config.main(["--libs"]) == 1
    assert "no no-such-compiler to compile the bridge with" in capsys.readouterr().err
    monkeypatch.setenv("CC", "false")
    assert _config.main(["--libs"]) == 1
    assert "ended with 1" in capsys.readouterr().err
    assert _config.main([]) == 2


def test_without_a_place_for_the_library_it_says_where_to_put_it(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert _config.main(["--libs"]) == 1
    said = capsys.readouterr().err
    assert "Not a directory; set XDG_CACHE_HOME to a directory that you may write" in said


def test_all_files_say_the_same_version():
    header = (LIBRARY / "ips_bridge.h").read_text()
    assert f'#define IPS_BRIDGE_VERSION "{__version__}"' in header
    for name, number in zip(("MAJOR", "MINOR", "PATCH"), __version__.split("."), strict=True):
        assert f"#define IPS_BRIDGE_VERSION_{name} {number}\n" in header
    assert f"project(ips_bridge VERSION {__version__} " in (LIBRARY / "CMakeLists.txt").read_text()
    assert f"VERSION := {__version__}\n" in (LIBRARY / "Makefile").read_text()
    config_version = (LIBRARY / "ips_bridge-config-version.cmake").read_text()
    assert f'set(PACKAGE_VERSION "{__version__}")' in config_version


def test_both_builds_know_all_sources():
    names = {path.name for path in _build.sources()}
    for file in ("Makefile", "CMakeLists.txt"):
        found = set(re.findall(r"ips_\w+\.c\b", (LIBRARY / file).read_text()))
        assert found - {"ips_bridge_mpi_f.c"} == names


# From the bottom to the top: each part may call those before it.
PARTS = """error bytes proof wire contact dtype contract plan segments leases memory link link_io
links state ids grid array describe rank_info feedback dispatch slots admit steps copy join flush
lend put rows put_named inplace life attached bridge model"""


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
def test_no_part_of_the_library_calls_up(built):
    assert {f"ips_{part}.c" for part in PARTS.split()} == {path.name for path in _build.sources()}
    above = set()
    exported = set()
    for part in reversed(PARTS.split()):
        lines = [line.split()[-2:] for line in run("nm", built / f"ips_{part}.o").splitlines()]
        needed = {name for kind, name in lines if kind == "U"}
        assert not needed & above, part
        here = {name for kind, name in lines if kind in "TDRB"}  # functions and data
        above |= here
        exported |= here
    assert {name.split("_")[0] for name in exported} == {"ips", "ipsb"}


@pytest.mark.skipif(not (compiler() and shutil.which("cmake")), reason="needs CMake")
def test_a_cmake_project_finds_it(capsys, tmp_path):
    (folder,) = told(capsys, "--cmakedir")
    fortran = " Fortran" if shutil.which("gfortran") else ""
    (tmp_path / "CMakeLists.txt").write_text(CMAKE.format(folder=folder, fortran=fortran))
    (tmp_path / "simulation.c").write_text(C_PROGRAM)
    run("cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"))
    run("cmake", "--build", str(tmp_path / "build"))
    run(str(tmp_path / "build" / "simulation"))
    assert bool(list(tmp_path.glob("build/**/ips_bridge.mod"))) == bool(fortran)


@pytest.mark.skipif(not (compiler() and shutil.which("cmake")), reason="needs CMake")
def test_cmake_refuses_another_version(capsys, tmp_path):
    (folder,) = told(capsys, "--cmakedir")
    text = CMAKE.format(folder=folder, fortran="").replace("bridge 0.1", "bridge 7.3")
    (tmp_path / "CMakeLists.txt").write_text(text)
    done = subprocess.run(
        ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert f"version: {__version__}" in done.stderr


@pytest.mark.skipif(not (compiler() and shutil.which("cmake")), reason="needs CMake")
@pytest.mark.parametrize("shared", ["ON", "OFF"])
def test_cmake_installs_what_a_project_finds(tmp_path, shared):
    prefix = tmp_path / "prefix"
    run("cmake", "-S", LIBRARY, "-B", tmp_path / "lib", f"-DBUILD_SHARED_LIBS={shared}")
    run("cmake", "--build", tmp_path / "lib")
    run("cmake", "--install", tmp_path / "lib", "--prefix", prefix)
    parts = [path.name for path in LIBRARY.glob("*.inc")]
    assert parts
    for name in ("ips_bridge.h", "ips_bridge_mpi.h", "ips_bridge.hpp", "ips_bridge.f90", *parts):
        assert (prefix / "include" / name).exists()
    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(CMAKE.format(folder=prefix, fortran=""))
    (project / "simulation.c").write_text(C_PROGRAM)
    run("cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", project / "build")
    run(project / "build" / "simulation")


@pytest.mark.skipif(not (compiler() and shutil.which("cmake")), reason="needs CMake")
def test_cmake_fetches_it_as_part_of_a_project(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.16)
project(simulation C)
include(FetchContent)
FetchContent_Declare(ips_bridge SOURCE_DIR "{LIBRARY}")
FetchContent_MakeAvailable(ips_bridge)
add_executable(simulation simulation.c)
target_link_libraries(simulation ips_bridge::ips_bridge)
""")
    (tmp_path / "simulation.c").write_text(C_PROGRAM)
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")
    run(tmp_path / "build" / "simulation")


@pytest.mark.skipif(not (compiler() and shutil.which("make")), reason="needs make")
def test_make_installs_what_pkg_config_finds(tmp_path):
    prefix, out = tmp_path / "prefix", tmp_path / "out"
    make = ["make", "-s", "-f", LIBRARY / "Makefile", f"OUT={out}", f"CC={compiler()}"]
    run(*make, "install", f"PREFIX={prefix}")
    text = (prefix / "lib" / "pkgconfig" / "ips_bridge.pc").read_text()
    assert f"Version: {__version__}\n" in text
    assert f"prefix={prefix}\n" in text
    parts = [path.name for path in LIBRARY.glob("*.inc")]
    for name in ("ips_bridge.h", "ips_bridge_mpi.h", "ips_bridge.hpp", *parts):
        assert (prefix / "include" / name).exists()
    source, program = tmp_path / "simulation.c", tmp_path / "simulation"
    source.write_text(C_PROGRAM)
    flags = [f"-I{prefix}/include", source, f"-L{prefix}/lib", "-lips_bridge"]
    run(compiler(), *flags, "-o", program)
    listed = run("ldd", program, env={"LD_LIBRARY_PATH": str(prefix / "lib"), "PATH": "/usr/bin"})
    assert f"libips_bridge.so.{__version__.rpartition('.')[0]} => {prefix}" in listed
    run(program, env={"LD_LIBRARY_PATH": str(prefix / "lib")})


@pytest.mark.skipif(not compiler(), reason="needs a C compiler")
def test_a_program_finds_the_shared_library(capsys, tmp_path):
    flags, library = told(capsys, "--cflags"), told(capsys, "--libs", "--shared")
    source, program = tmp_path / "simulation.c", tmp_path / "simulation"
    source.write_text(C_PROGRAM)
    run(compiler(), *flags, source, *library, "-o", program)
    assert "libips_bridge.so" in run("ldd", program)
    run(program)


FORTRAN = [["-std=f2018"], ["-std=f2008"], ["-std=f2008", "-fdefault-integer-8"]]


@pytest.mark.skipif(not shutil.which("gfortran"), reason="needs gfortran")
@pytest.mark.parametrize("standard", FORTRAN, ids=" ".join)
def test_a_fortran_program(capsys, built, sinks, tmp_path, monkeypatch, standard):
    (module,) = told(capsys, "--fortran")
    source, program = tmp_path / "ranks.f90", str(tmp_path / "ranks")
    source.write_text(F_PROGRAM)
    flags = [
        *standard,
        "-Wall",
        "-Wextra",
        "-fcheck=bounds,do,mem,pointer,recursion",
        "-J",
        str(tmp_path),
    ]
    run("gfortran", *flags, module, str(source), str(built / "libips_bridge.a"), "-o", program)
    spec = spec_of(
        dtype="<i8",
        shape=(3, 5, 4),
        count=4,
        start=10,
        every=5,
        dims=("z", "y", "x"),
        attrs={"units": "K"},
    )
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        receiver.feedback("gain", np.array([0.5, 0.25]), 10)
        monkeypatch.setenv("IPS_COMPONENTS_CONTACT", str(contact))
        run(program)
        assert sink.arrays == []
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()
        assert sink.byes[0].status == "ok"


F_KINDS = """
program kinds
    use, intrinsic :: iso_c_binding
    use ips_bridge
    implicit none
    type(bridge) :: b
    integer, allocatable :: blob(:)
    real(c_double) :: time, wide(0:9, 8)
    complex(c_float_complex) :: c(5)
    integer(c_int16_t) :: counts(2, 3, 2, 1)
    real(c_float) :: rows(6, 7)
    integer(c_int64_t) :: blocks(5), bytes(5)
    integer :: status, step, i, j, shm, tcp
    integer :: none(0)

    call bridge_open(b, 0, 1, status)
    call bridge_declare(b, 'time', 'f8', none, status, steps=2)
    call bridge_declare(b, 'u', 'f8', [4, 3], status, steps=2)
    call bridge_declare(b, 'c', 'c8', [3], status, steps=2)
    call bridge_declare(b, 'n', 'i2', [2, 3, 2, 1], status, steps=2)
    call bridge_declare(b, 'x', 'f4', [3, -1], status, steps=2)
    call done('declare')
    call bridge_attribute(b, 'u', 'units', 'K', status)
    call done('text')
    call bridge_attribute(b, 'u', 'dx', 0.5d0, status)
    call done('number')
    call bridge_attribute(b, 'u', 'origin', [0.5d0, -1d0], status)
    call done('numbers')
    call bridge_attribute(b, 'u', 'level', 3, status)
    call done('integer')
    call bridge_attribute(b, 'u', 'grid', [4, 3], status)
    call done('integers')
    call bridge_set_partial(b, .false., status)
    call done('partial')
    call bridge_block(b, 'u', 'f8', [0, 0], [4, 3], status, halo=[1, 0])
    call bridge_request(b, blob, status)
    call done('request')
    call bridge_join(b, blob, status)
    call done('join')
    do step = 0, 1
        time = 0.5d0 + step
        do j = 1, 8
            do i = 0, 9
                wide(i, j) = 100*step + 10*j + i
            end do
        end do
        c = [(cmplx(i, step), i=1, 5)]
        counts = reshape([(int(i + 12*step, c_int16_t), i=0, 11)], [2, 3, 2, 1])
        do j = 1, 7
            do i = 1, 6
                rows(i, j) = real(100*step + 10*j + i)
            end do
        end do
        if (.not. bridge_wants(b, 'u', step)) error stop 'wants'
        call bridge_put(b, 'time', step, time, status)
        call done('time')
        call bridge_put(b, 'u', step, wide(0:7, 1:3), status) ! two cells too many
        if (status /= BRIDGE_GEOMETRY) error stop 'geometry'
        call bridge_put(b, 'u', step, wide(0:5, 1:3), status)
        call done('section')
        call bridge_put(b, 'c', step, c(5:1:-2), status)
        call done('backwards')
        call bridge_put(b, 'n', step, counts, status)
        call done('four dimensions')
        call bridge_put_rows(b, 'x', step, rows(1:5:2, 2:3), 2, status)
        call done('rows')
    end do
    call bridge_put(b, 'u', 0, wide(0:5, 1:3), status)
    if (status /= BRIDGE_USAGE .or. index(bridge_error(b), 'must rise') == 0) error stop 'falls'
    if (bridge_wants(b, 'u', 2)) error stop 'wants 2'
    call bridge_put(b, 'u', 1, 'text', status)
    if (status /= BRIDGE_USAGE) error stop 'text'
    call bridge_rewind(b, 1, status)
    if (status /= BRIDGE_USAGE) error stop 'rewind'
    call bridge_rewind(b, 2, status)
    call done('rewind')
    call bridge_statistics(b, 'u', blocks, bytes, status)
    if (blocks(3) /= 2 .or. bytes(3) /= 2*4*3*8) error stop 'statistics'
    call bridge_lanes(b, shm, tcp, status)
    if (shm + tcp /= 1 .or. bridge_waited(b) < 0) error stop 'lanes'
    if (bridge_version() /= '@version@') error stop 'version'
    call bridge_close(b, status)
    call done('close')
    call bridge_free(b)
contains
    subroutine done(what)
        character(*), intent(in) :: what
        if (status == BRIDGE_OK) return
        print '(3a)', what, ': ', bridge_error(b)
        error stop 1
    end subroutine done
end program kinds
"""


@pytest.mark.skipif(not shutil.which("gfortran"), reason="needs gfortran")
@pytest.mark.parametrize("standard", FORTRAN, ids=" ".join)
def test_kinds_and_sections_of_fortran(capsys, built, sinks, tmp_path, monkeypatch, standard):
    (module,) = told(capsys, "--fortran")
    source, program = tmp_path / "kinds.f90", str(tmp_path / "kinds")
    source.write_text(F_KINDS.replace("@version@", __version__))
    # "array-temps" would complain at any copy of a section: there must be none at all
    flags = [*standard, "-Wall", "-Wextra", "-fcheck=all"]
    library = built / "libips_bridge.a"
    run("gfortran", *flags, "-J", tmp_path, module, source, library, "-o", program)
    axis = StepAxis(count=2)
    specs = [
        ArraySpec("time", "<f8", (), axis),
        ArraySpec("u", "<f8", (3, 4), axis),
        ArraySpec("c", "<c8", (3,), axis),
        ArraySpec("n", "<i2", (1, 2, 3, 2), axis),
        ArraySpec("x", "<f4", (-1, 3), axis, ragged=True),
    ]
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(*specs)) as (contact, _):
        monkeypatch.setenv("IPS_COMPONENTS_CONTACT", str(contact))
        run(program)
        for step in range(2):
            time, u, c, n, x = (sink.chunks[ordinal, step][0] for ordinal in range(5))
            assert time == 0.5 + step
            at = np.arange(1, 4)[:, None] * 10 + np.arange(1, 5)
            assert (u == 100 * step + at).all()
            assert (c == np.array([5, 3, 1]) + 1j * step).all()
            assert (n.ravel() == np.arange(12) + 12 * step).all()
            assert (x == 100 * step + np.array([[21, 23, 25], [31, 33, 35]])).all()
        del time, u, c, n, x
