"""Random rows by index and blocks with levels, from sections with gaps: Fortran and C++."""

import numpy as np
import pytest
from c_ranks import RUN
from test_both_random_rows import random_choice, random_table
from written_programs import listed, need_compiler, ran

from ips_components.bridge import Array
from ips_components.model.contract import ArrayContract, Contract

STEPS, ROOM = 3, 9

FORTRAN = """
program ranks
    use ips_bridge
    implicit none
    integer, parameter :: NX = @nx@, NY = @ny@, ROOM = @room@
    type(bridge) :: b
    integer, allocatable :: blob(:)
    real(4) :: wide(2*NX, NY + 1, ROOM)
    integer :: status
    call bridge_open(b, 0, 1, status)
    call bridge_declare(b, 'x', 'f4', [NX, NY, -1], status, steps=@steps@)
    call bridge_declare(b, 'rho', 'f4', [NX, NY, -1], status, steps=@steps@)
    call bridge_levels(b, 'rho', @levels@, @refinement@, status)
    call bridge_request(b, blob, status)
    call bridge_join(b, blob, status)
    if (status /= 0) print *, bridge_error(b)
@puts@
    call bridge_close(b, status)
    call bridge_free(b)
contains
    subroutine fill(step)
        integer, intent(in) :: step
        integer :: i, j, k
        wide = -1
        do k = 1, ROOM
            do j = 1, NY
                do i = 1, NX
                    wide(2*i - 1, j, ROOM + 1 - k) = 1000*step + (k - 1)*NX*NY + (j - 1)*NX + i - 1
                end do
            end do
        end do
    end subroutine fill
end program ranks
"""

CPP = r"""
#include <ips_bridge.hpp>
int main()
{
    constexpr std::int64_t nx = @nx@, ny = @ny@, room = @room@;
    constexpr std::int64_t row = 2 * nx, plane = (ny + 1) * row;
    ips::bridge bridge(0, 1);
    auto x = bridge.declare<float>("x", {-1, ny, nx}).steps(@steps@);
    auto rho = bridge.declare<float>("rho", {-1, ny, nx}).steps(@steps@);
    rho.levels(@levels@, @refinement@);
    bridge.connect();
    std::vector<float> wide;
    const ips::index strides{-4 * plane, 4 * row, 8};
    const auto fill = [&](int step) {
        wide.assign(room * plane, -1);
        for (std::int64_t k = 0; k < room; k++)
            for (std::int64_t j = 0; j < ny; j++)
                for (std::int64_t i = 0; i < nx; i++)
                    wide[static_cast<std::size_t>((room - 1 - k) * plane + j * row + 2 * i)] =
                        static_cast<float>(1000 * step + (k * ny + j) * nx + i);
        return wide.data() + (room - 1) * plane;
    };
@puts@
    bridge.close();
}
"""


@pytest.fixture(params=[0, 1])
def rng(request):
    return np.random.default_rng(request.param)


def fortran(step, index, dense, table):
    """Statements that put rows and blocks at a step; places are in Fortran's order."""
    section = "wide(1:2*NX:2, :NY, ROOM:1:-1)"
    of = "" if dense else f", index=[integer :: {listed(index + 1)}]"
    places = f"reshape([integer :: {listed(table[:, :0:-1].ravel())}], [2, {len(table)}])"
    levels = f"levels=[integer :: {listed(table[:, 0])}], places={places}"
    check = f"    if (status /= 0) print *, {step}, bridge_error(b)"
    return [
        f"    call fill({step})",
        f"    call bridge_put_rows(b, 'x', {step}, {section}, {len(index)}, status{of})",
        check,
        f"    call bridge_put_rows(b, 'rho', {step}, {section}, {len(table)}, status, &",
        f"        {levels})",
        check,
    ]


def cpp(step, index, dense, table):
    """The same in C++."""
    rows = len(index) if dense else f"ips::index{{{listed(index)}}}"
    levels, places = listed(table[:, 0]), listed(table[:, 1:].ravel())
    return [
        f"    x.put_rows({step}, fill({step}), {rows}, strides);",
        f"    rho.put_blocks({step}, fill({step}), {{{levels}}}, {{{places}}}, strides);",
    ]


@pytest.mark.parametrize("language", ["fortran", "c++"])
def test_random_rows_and_blocks(rng, language, built, sinks, tmp_path):
    flat = language == "fortran"
    need_compiler(language)
    levels, refinement, ny, nx = (int(n) for n in rng.integers(1, 4, 4))
    index = [rng.permutation(ROOM)[: rng.integers(0, ROOM)] for _ in range(STEPS)]
    dense = [bool(rng.integers(2)) for _ in range(STEPS)]
    index = [np.arange(len(i)) if d else i for i, d in zip(index, dense, strict=True)]
    tables = [random_table(rng, levels, refinement, 2) for _ in range(STEPS)]
    tables[-1] = tables[-1][:0]  # no block at all
    puts = []
    for step in range(STEPS):
        puts += (fortran if flat else cpp)(step, index[step], dense[step], tables[step])
    facts = {"nx": nx, "ny": ny, "room": ROOM, "steps": STEPS, "puts": "\n".join(puts)}
    facts |= {"levels": levels, "refinement": refinement}
    options = {"ragged": True, "steps": STEPS}
    mesh = Array("rho", (-1, ny, nx), "f4", levels=levels, refinement=refinement, **options)
    choice = random_choice(rng, levels, refinement, 2)
    agreements = [ArrayContract.agree(Array("x", (-1, ny, nx), "f4", **options).spec, run=RUN)]
    for spec in (mesh.spec, mesh.table.spec):
        agreements.append(ArrayContract.agree(spec, run=RUN, blocks=choice))
    (sink,) = sinks()
    contract = Contract(RUN, tuple(agreements))
    with ran(language, FORTRAN if flat else CPP, facts, built, tmp_path, sink, contract):
        for step in range(STEPS):
            whole = 1000 * step + np.arange(ROOM * ny * nx).reshape(ROOM, ny, nx)
            kept = slice(None) if choice is None else choice.accept(tables[step], (ny, nx))
            assert np.array_equal(sink.chunks[0, step][0], whole[index[step]])
            assert np.array_equal(sink.chunks[1, step][0], whole[: len(tables[step])][kept])
            assert np.array_equal(sink.chunks[2, step][0], tables[step][kept])
