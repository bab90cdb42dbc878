"""Programs find the bridge: `ips-components-config`, make, CMake; in C, C++ and Fortran."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from c_ranks import LIBRARY, agree, compiler, coupling, delivered, expected, spec_of

from ips_components import __version__
from ips_components.bridge import _config

C_PROGRAM = """
#include <ips_bridge.h>
int main(void)
{
    ips_bridge *bridge;
    return ips_bridge_open(&bridge, 3, 2) == IPS_BRIDGE_USAGE && !bridge ? 0 : 1;
}
"""

F_PROGRAM = """
program ranks
    use, intrinsic :: iso_c_binding, only: c_f_pointer, c_ptr
    use ips_bridge
    implicit none
    type(bridge) :: b
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
    call bridge_put_block(b, 't', 25, cells(:, 2:4, :), [0, 2, 0], [4, 3, 3], status)
    call done('put_block')
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
find_package(ips_bridge REQUIRED PATHS {folder})
add_executable(simulation simulation.c)
target_link_libraries(simulation ips_bridge::ips_bridge)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The user's cache directory, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


def test_all_files_say_the_same_version():
    header = (LIBRARY / "ips_bridge.h").read_text()
    assert f'#define IPS_BRIDGE_VERSION "{__version__}"' in header
    assert f"project(ips_bridge VERSION {__version__} " in (LIBRARY / "CMakeLists.txt").read_text()


def test_both_builds_know_all_sources():
    names = {path.name for path in _config.sources()}
    for file in ("Makefile", "CMakeLists.txt"):
        assert set(re.findall(r"ips_\w+\.c\b", (LIBRARY / file).read_text())) == names


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


@pytest.mark.skipif(not shutil.which("gfortran"), reason="needs gfortran")
def test_a_fortran_program(capsys, built, sinks, tmp_path, monkeypatch):
    (module,) = told(capsys, "--fortran")
    source, program = tmp_path / "ranks.f90", str(tmp_path / "ranks")
    source.write_text(F_PROGRAM)
    flags = [
        "-std=f2018",
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
