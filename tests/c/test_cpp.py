"""The C++ header, and the MPI helpers of C++ and Fortran: programs against real receivers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from c_ranks import LIBRARY, agree, coupling

from ips_components.model.spec import ArraySpec, StepAxis

STRICT = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]

PROGRAM = r"""
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#if __cplusplus >= 202002L
#include <span>
#endif
#include <ips_bridge.hpp>

#define CHECK(what)                                                                              \
    ((what) ? (void)0 : (std::printf("line %d: %s\n", __LINE__, #what), std::exit(1)))

// What views of Kokkos and std::mdspan offer.
struct view {
    using value_type = double;
    static constexpr std::size_t rank() { return 2; }
    double *cells;
    std::size_t extents[2], strides[2];
    std::size_t extent(std::size_t d) const { return extents[d]; }
    std::size_t stride(std::size_t d) const { return strides[d]; }
    double *data() const { return cells; }
};

template <class Call> int code_of(Call call)
{
    try {
        call();
    } catch (const ips::error &error) {
        return error.code();
    }
    return 0;
}

static void put_all(ips::bridge &bridge)
{
    constexpr int ny = 3, nx = 4;
    auto t = bridge.declare<double>("t", {ny, nx}).steps(4).dims("y,x");
    t.attribute("units", "K").block({0, 0}, {ny, nx}, {1, 0});
    auto n = bridge.declare<std::int16_t>("n", {5}).steps(4).block({0}, {5});
    auto z = bridge.declare<std::complex<double>>("z", {}).steps(4).block({}, {});
    auto x = bridge.declare<float>("x", {-1, 2}).steps(4);
    int text = 0;
    ips_bridge_set_error_handler(
        bridge.get(),
        [](ips_bridge *, int, const char *words, void *data) {
            *static_cast<int *>(data) += std::strlen(words) > 0;
        },
        &text);
    bridge.connect();
    std::vector<double> cells((ny + 2) * nx), turned((ny + 2) * nx);
    std::array<std::int16_t, 5> counts{};
    for (int step = 0; step < 4; step++) {
        for (int i = 0; i < (ny + 2) * nx; i++)
            cells[static_cast<std::size_t>(i)] = 100 * step + i - nx;
        for (std::size_t j = 0; j < ny + 2; j++)
            for (std::size_t i = 0; i < nx; i++)
                turned[i * (ny + 2) + j] = cells[j * nx + i];
        CHECK(t.wants(step));
        if (step == 0) {
            CHECK(code_of([&] { t.put(step, std::vector<double>(7)); }) == IPS_BRIDGE_GEOMETRY);
            CHECK(code_of([&] { t.put(step, view{cells.data(), {4, 4}, {4, 1}}); }) ==
                  IPS_BRIDGE_GEOMETRY);
            t.put(step, cells);
        } else if (step == 1) {
            t.put(step, view{turned.data(), {ny + 2, nx}, {1, ny + 2}});
        } else if (step == 2) {
            { auto forgotten = t.acquire(step); }
            auto block = t.acquire(step);
            CHECK(block.size() == cells.size());
            std::copy(cells.begin(), cells.end(), block.begin());
            block.publish();
            CHECK(code_of([&] { block.publish(); }) == IPS_BRIDGE_USAGE);
        } else {
#if __cplusplus >= 202002L
            t.put(step, std::span<const double>(cells));
#else
            t.put(step, cells.data());
#endif
        }
        std::iota(counts.begin(), counts.end(), static_cast<std::int16_t>(10 * step));
        n.put(step, counts);
        std::complex<double> one(step, -step);
        z.put(step, &one);
        float rows[] = {1, 2, 3, 4};
        x.put_rows(step, rows, step % 2 ? 2 : 1);
    }
    CHECK(code_of([&] { t.put(1, cells); }) == IPS_BRIDGE_USAGE);
    CHECK(text > 0);
    CHECK(code_of([&] { bridge.rewind(3); }) == IPS_BRIDGE_USAGE);
    CHECK(!t.wants(9));
    auto gain = bridge.receive("gain", 1, 5);
    CHECK(gain && gain->size() == 2 && (*gain)[1] == 0.25);
    CHECK(!bridge.receive("none", 1, 0));
    CHECK(!bridge.should_stop());
    CHECK(bridge.wait(10));
    CHECK(bridge.account("t").blocks.delivered == 4);
    // programs of an older and of a newer version have a smaller and a larger structure
    struct {
        ips_bridge_account known;
        std::uint64_t later;
    } account;
    std::memset(&account, 1, sizeof account);
    const std::size_t size = sizeof account.known.blocks;
    CHECK(!ips_bridge_statistics_sized(bridge.get(), "t", &account.known, size));
    CHECK(account.known.blocks[2] == 4 && account.known.bytes[0] == 0x0101010101010101);
    CHECK(!ips_bridge_statistics_sized(bridge.get(), "t", &account.known, sizeof account));
    CHECK(account.known.bytes[2] == 4 * 96 && account.later == 0);
    CHECK(bridge.lost().empty());
    CHECK(bridge.lanes().first + bridge.lanes().second == 1);
}

int main(int argc, char **)
{
    CHECK(!std::strcmp(ips_bridge_version(), IPS_BRIDGE_VERSION));
    CHECK(code_of([] { ips::bridge wrong(3, 2); }) == IPS_BRIDGE_USAGE);
    if (argc > 1) { // an exception ends the run as failed
        try {
            ips::bridge bridge;
            put_all(bridge);
            throw std::runtime_error("the solver diverged");
        } catch (const std::runtime_error &) {
            return 0;
        }
    }
    ips::bridge bridge;
    put_all(bridge);
    bridge.close();
    return 0;
}
"""

SPECS = [
    ArraySpec("t", "<f8", (3, 4), StepAxis(count=4), ("y", "x"), {"units": "K"}),
    ArraySpec("n", "<i2", (5,), StepAxis(count=4)),
    ArraySpec("z", "<c16", (), StepAxis(count=4)),
    ArraySpec("x", "<f4", (-1, 2), StepAxis(count=4), ragged=True),
]


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=100, check=False, **options
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def compilers():
    found = [name for name in ("g++", "clang++") if shutil.which(name)]
    return [(name, standard) for name in found for standard in ("17", "20")]


@pytest.mark.skipif(not compilers(), reason="needs a C++ compiler")
@pytest.mark.parametrize(("compiler", "standard"), compilers())
@pytest.mark.parametrize("failing", [False, True])
def test_a_program(built, sinks, tmp_path, compiler, standard, failing):
    source, program = tmp_path / "ranks.cpp", tmp_path / "ranks"
    source.write_text(PROGRAM)
    flags = [f"-std=c++{standard}", *STRICT, f"-I{LIBRARY}"]
    run(compiler, *flags, source, built / "libips_bridge.a", "-o", program)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(*SPECS)) as (contact, (receiver,)):
        receiver.feedback("gain", np.array([0.5, 0.25]), 1)
        run(
            program,
            *["fails"] * failing,
            env={**os.environ, "IPS_COMPONENTS_CONTACT": str(contact)},
        )
        bye = sink.byes[0]
        assert bye.status == ("aborted" if failing else "ok")
        assert ("exception" in bye.reason) == failing
        for step in range(4):
            t, n, z, x = (sink.chunks[ordinal, step][0] for ordinal in range(4))
            assert (t == 100 * step + np.arange(12).reshape(3, 4)).all()
            assert (n == 10 * step + np.arange(5)).all()
            assert z == step - 1j * step
            assert x.tolist() == [[1, 2], [3, 4]][: 1 + step % 2]
        del t, n, z, x


# -- with MPI --------------------------------------------------------------------------------------

MPI_CPP = r"""
#include <mpi.h>
#include <cstdio>
#include <vector>
#include <ips_bridge.hpp>
int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    int status = 0;
    try {
        ips::bridge bridge(MPI_COMM_WORLD);
        auto t = bridge.declare<double>("t", {4 * bridge.size()}).steps(3);
        t.block({4 * bridge.rank()}, {4});
        bridge.connect();
        std::vector<double> cells(4);
        for (int step = 0; step < 3; step++) {
            for (int i = 0; i < 4; i++)
                cells[static_cast<std::size_t>(i)] = 100 * step + 4 * bridge.rank() + i;
            t.put(step, cells);
        }
        auto gain = bridge.receive("gain", 1, 10);
        status |= !gain || (*gain)[1] != 0.25 || bridge.should_stop();
        // room differs between ranks: the smallest one decides, on all ranks alike
        double values[2];
        int64_t count = 0;
        int room = bridge.rank() ? 1 : 2;
        int code = ips_bridge_receive_doubles_mpi(bridge.get(), MPI_COMM_WORLD, "gain", 1, 10,
                                                  values, room, &count);
        status |= code != IPS_BRIDGE_USAGE;
        ips_bridge_model model;
        code = ips_bridge_receive_model_mpi(bridge.get(), MPI_COMM_WORLD, "net", 2, 10, &model);
        status |= code != IPS_BRIDGE_OK || model.version != 3 || model.n_arrays != 2 ||
                  model.names[1] != std::string("bias") || model.arrays[0].shape[1] != 3 ||
                  static_cast<const double *>(model.arrays[0].data)[5] != 5;
        code = ips_bridge_receive_model_mpi(bridge.get(), MPI_COMM_WORLD, "net", 3, 10, &model);
        status |= code != IPS_BRIDGE_NOTHING;
        auto net = bridge.receive_model("net", 2, 10);
        status |= !net || net->version != 3 || net->arrays.size() != 2 ||
                  net->arrays["weights"].shape != ips::index{2, 3} ||
                  net->arrays["weights"].doubles[5] != 5 ||
                  net->arrays["bias"].integers != ips::index{0, 1, 2};
        status |= bridge.receive_model("net", 3).has_value();
        bridge.close();
    } catch (const ips::error &error) {
        std::printf("%d %s\n", error.code(), error.what());
        status = 2;
    }
    MPI_Finalize();
    return status;
}
"""

MPI_F = """
program ranks
    use, intrinsic :: iso_c_binding, only: c_double
    use mpi_f08
    use ips_bridge_mpi_f08
    implicit none
    type(bridge) :: b
    integer :: rank, ranks_, status, step, count
    real(c_double) :: cells(0:9), gain(4), weights(3, 2)
    type(bridge_model) :: net
    logical :: stopped
    call MPI_Init()
    call MPI_Comm_rank(MPI_COMM_WORLD, rank)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks_)
    call bridge_open(b, rank, ranks_, status)
    call bridge_declare(b, 't', 'f8', [4*ranks_], status, steps=3)
    call bridge_block(b, 't', 'f8', [4*rank], [4], status)
    if (@handle@) then
        call bridge_connect(b, MPI_COMM_WORLD%MPI_VAL, status)
    else
        call bridge_connect(b, MPI_COMM_WORLD, status)
    end if
    if (status /= BRIDGE_OK) then
        print *, bridge_error(b)
        error stop 1
    end if
    do step = 0, 2
        cells = -1
        cells(1:7:2) = 100*step + 4*rank + [0, 1, 2, 3]
        call bridge_put(b, 't', step, cells(1:7:2), status)
        if (status /= BRIDGE_OK) error stop 2
    end do
    call bridge_receive_all(b, MPI_COMM_WORLD, 'gain', 1, 10.0_c_double, gain, count, status)
    if (status /= BRIDGE_OK .or. count /= 2 .or. nint(100*gain(2)) /= 25) error stop 3
    call bridge_should_stop_all(b, MPI_COMM_WORLD, stopped, status)
    if (status /= BRIDGE_OK .or. stopped) error stop 4
    call bridge_receive_model_all(b, MPI_COMM_WORLD, 'net', 2, 10.0_c_double, net, status)
    if (status /= BRIDGE_OK .or. net%version /= 3 .or. size(net%arrays) /= 2) error stop 6
    if (net%arrays(1)%name /= 'weights' .or. net%arrays(2)%name /= 'bias') error stop 7
    if (any(net%arrays(1)%shape /= [3, 2])) error stop 8
    weights = reshape(net%arrays(1)%values, [3, 2])
    if (nint(weights(1, 2)) /= 3 .or. any(nint(net%arrays(2)%values) /= [0, 1, 2])) error stop 9
    call bridge_receive_model_all(b, MPI_COMM_WORLD, 'net', 3, 0.0_c_double, net, status)
    if (status /= BRIDGE_NOTHING) error stop 10
    if (rank == 0) call bridge_receive_model(b, 'net', -1, 0.0_c_double, net, status)
    if (rank == 0 .and. (status /= BRIDGE_OK .or. net%version /= 3)) error stop 11
    call bridge_close(b, status)
    if (status /= BRIDGE_OK) error stop 5
    call bridge_free(b)
    call MPI_Finalize()
end program ranks
"""


def mpi(name):
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def coupled_ranks(program, sinks, tmp_path):
    """Run three ranks and check what arrives."""
    (sink,) = sinks()
    contract = agree(ArraySpec("t", "<f8", (12,), StepAxis(count=3)))
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        receiver.feedback("gain", np.array([0.5, 0.25]), 1)
        receiver.feedback("net/weights", np.arange(6.0).reshape(2, 3), 3)
        receiver.feedback("net/bias", np.arange(3), 3)
        receiver.feedback("net", {"arrays": ["weights", "bias"]}, 3)
        environment = {**os.environ, "IPS_COMPONENTS_CONTACT": str(contact)}
        run(mpi("mpiexec"), "-n", 3, program, env=environment)
        for step in range(3):
            assert (sink.chunks[0, step] == 100 * step + np.arange(12)).all()
        assert {bye.status for bye in sink.byes.values()} == {"ok"}
        assert {host for hello in sink.hellos for host, _ in hello.hosts or ()}


@pytest.mark.skipif(not (mpi("mpicxx") and mpi("mpiexec")), reason="needs MPI for C++")
def test_ranks_of_a_communicator(built, sinks, tmp_path):
    source, program = tmp_path / "ranks.cpp", tmp_path / "ranks"
    source.write_text(MPI_CPP)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{LIBRARY}"]
    run(mpi("mpicxx"), *flags, source, built / "libips_bridge.a", "-o", program)
    coupled_ranks(program, sinks, tmp_path)
    # what rank 0 suffers from is an error of all ranks; none is aborted, none waits for the others
    nowhere = {"IPS_COMPONENTS_CONTACT": str(tmp_path / "none.json")}
    ended = subprocess.run(
        [mpi("mpiexec"), "-n", "3", program],
        env={**os.environ, **nowhere, "IPS_COMPONENTS_DEADLINE": "0.5"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = ended.stdout.splitlines()
    assert ended.returncode == 2
    assert len(lines) == 3 and all("none.json" in line for line in lines), lines


@pytest.mark.skipif(not (mpi("mpicxx") and mpi("mpiexec")), reason="needs MPI for C++")
def test_the_heat_example_has_the_bits_of_the_one_in_python(sinks, tmp_path):
    make = ["make", "-s", "-f", HEAT2D / "Makefile", "cpp", f"OUT={tmp_path}"]
    run(*make, f"MPICXX={mpi('mpicxx')}", f"MPICC={mpi('mpicc')}", "CXXFLAGS=-O2 -Wall -Werror")
    options = ["--nx", 33, "--ny", 10, "--steps", 30, "--every", 4]
    alike = ["--initial", "sine", "--source", "none", "--boundary", 0, 0, 0, 0]
    field, script = tmp_path / "field.npy", HEAT2D / "heat2d.py"
    python = [mpi("mpiexec"), "-n", 2, sys.executable, script, "--no-coupling"]
    run(*python, "--posthoc", field, *options, *alike)
    spec = ArraySpec("temperature", "<f8", (10, 33), StepAxis(0, 4, 8), ("y", "x"), {"units": "K"})
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec, chunks=(1, 10, 33))) as (contact, _):
        environment = {**os.environ, "IPS_COMPONENTS_CONTACT": str(contact)}
        run(mpi("mpiexec"), "-n", 4, tmp_path / "heat2d_cpp", *options, env=environment)
        found = np.concatenate([sink.chunks[0, step] for step in range(8)])
        assert found.tobytes() == np.load(field).tobytes()


HEAT2D = Path(__file__).parents[2] / "examples" / "heat2d"


@pytest.mark.skipif(
    not (mpi("mpicc") and mpi("mpiexec") and shutil.which("gfortran")),
    reason="needs MPI and gfortran",
)
@pytest.mark.parametrize("handle", [".true.", ".false."])
def test_fortran_connects_by_a_communicator(built, sinks, tmp_path, handle):
    source, program = tmp_path / "ranks.f90", tmp_path / "ranks"
    source.write_text(MPI_F.replace("@handle@", handle))
    modules = ["ips_bridge.f90", "ips_bridge_mpi.f90", "ips_bridge_mpi_f08.f90"]
    files = [HEAT2D / "mpi_f08_lite.f90", *(LIBRARY / name for name in modules), source]
    for file in files:
        out = tmp_path / f"{file.stem}.o"
        standard = "f2018" if file.stem == "mpi_f08_lite" else "f2008"
        run("gfortran", f"-std={standard}", "-Wall", "-J", tmp_path, "-c", file, "-o", out)
    c_files = [HEAT2D / "mpi_f08_lite.c", LIBRARY / "ips_bridge_mpi_f.c"]
    objects = [tmp_path / f"{file.stem}.o" for file in files]
    gfortran = run("gfortran", "-print-file-name=libgfortran.so").strip()
    libraries = [built / "libips_bridge.a", gfortran, "-lm"]
    run(mpi("mpicc"), f"-I{LIBRARY}", *c_files, *objects, *libraries, "-o", program)
    coupled_ranks(program, sinks, tmp_path)
