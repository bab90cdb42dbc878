"""Ids, rows by an index, blocks with levels, uneven halos: the Fortran module, the C++ header."""

import os
import shutil

import numpy as np
import pytest
from c_ranks import LIBRARY, RUN, coupling
from test_cpp import STRICT, run

from ips_components.bridge import Array
from ips_components.model.amr import BlockChoice
from ips_components.model.contract import ArrayContract, Contract

OFFERED = [
    Array("u", (6,), "f8", ids=True, shared="low", steps=2),
    Array("x", (-1, 2), "f8", ragged=True, steps=2),
    Array("rho", (-1, 2, 2), "f8", ragged=True, levels=2, steps=2),
    Array("p", (3,), "f8", halo=((1, 2),), shared="low", steps=2),
]

FORTRAN = """
program ranks
    use ips_bridge
    implicit none
    type(bridge) :: b
    integer, allocatable :: blob(:)
    integer, parameter :: ids(6) = [5, 0, 3, 1, 4, 2]
    real(8) :: u(6), x(2, 4), rho(2, 2, 2), p(6)
    integer :: status, step, i

    call bridge_open(b, 0, 1, status)
    call bridge_declare(b, 'u', 'f8', [6], status, steps=2)
    call bridge_ids(b, 'u', BRIDGE_LOW, status, ids=ids)
    call done('ids')
    call bridge_declare(b, 'x', 'f8', [2, -1], status, steps=2)
    call bridge_declare(b, 'rho', 'f8', [2, 2, -1], status, steps=2)
    call bridge_levels(b, 'rho', 2, 2, status)
    call done('levels')
    call bridge_declare(b, 'p', 'f8', [3], status, steps=2)
    call bridge_shared(b, 'p', [BRIDGE_LOW], status)
    call done('shared')
    call bridge_halo(b, 'p', [1], [2], status)
    call done('halo')
    call bridge_block(b, 'p', 'f8', [0], [3], status)
    call done('block')
    call bridge_request(b, blob, status)
    call bridge_join(b, blob, status)
    call done('join')
    do step = 0, 1
        u = 10 * ids + step
        if (step == 0) call bridge_put_rows(b, 'u', step, u, 6, status)
        if (step == 1) call bridge_put_rows(b, 'u', step, u(6:1:-1), 6, status, ids=ids(6:1:-1))
        call done('u')
        do i = 1, 4
            x(:, i) = [i - 1.0d0, i - 0.5d0]
        end do
        call bridge_put_rows(b, 'x', step, x, 2, status, index=[4, 2])
        call done('x')
        rho(:, :, 1) = 1
        rho(:, :, 2) = 2
        call bridge_put_rows(b, 'rho', step, rho, 2, status, levels=[0, 1], &
            places=reshape([0, 0, 4, 2], [2, 2]))
        call done('rho')
        p = -1
        p(2:4) = [7, 8, 9]
        call bridge_put(b, 'p', step, p, status)
        call done('p')
    end do
    call bridge_put_rows(b, 'x', 1, x, 2, status, index=[5, 2])
    if (status /= BRIDGE_USAGE) error stop 'an index beyond the rows'
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
end program ranks
"""

CPP = r"""
#include <ips_bridge.hpp>
int main()
{
    ips::bridge bridge(0, 1);
    const ips::index ids{5, 0, 3, 1, 4, 2}, back{2, 4, 1, 3, 0, 5};
    auto u = bridge.declare<double>("u", {6}).steps(2).ids(ids, IPS_BRIDGE_LOW);
    auto x = bridge.declare<double>("x", {-1, 2}).steps(2);
    auto rho = bridge.declare<double>("rho", {-1, 2, 2}).steps(2).levels(2);
    auto p = bridge.declare<double>("p", {3}).steps(2).shared({IPS_BRIDGE_LOW}).halo({1}, {2});
    p.block({0}, {3});
    bridge.connect();
    for (int step = 0; step < 2; step++) {
        double values[6], rows[] = {0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5};
        for (std::size_t i = 0; i < 6; i++)
            values[i] = static_cast<double>(10 * (step ? back : ids)[i] + step);
        if (step)
            u.put_ids(step, values, back);
        else
            u.put_rows(step, values, 6);
        x.put_rows(step, rows, ips::index{3, 1}, {});
        const double blocks[] = {1, 1, 1, 1, 2, 2, 2, 2};
        rho.put_blocks(step, blocks, {0, 1}, {0, 0, 2, 4});
        p.put(step, std::vector<double>{-1, 7, 8, 9, -1, -1});
    }
    bridge.close();
}
"""


@pytest.fixture(params=["fortran", "c++"])
def program(request, built, tmp_path):
    """A program that puts all of the arrays, by itself."""
    out, library = tmp_path / "ranks", built / "libips_bridge.a"
    if request.param == "fortran":
        if not shutil.which("gfortran"):
            pytest.skip("needs gfortran")
        source = tmp_path / "ranks.f90"
        source.write_text(FORTRAN)
        flags = ["-std=f2008", "-Wall", "-fcheck=bounds,do,mem,pointer", "-J", tmp_path]
        run("gfortran", *flags, LIBRARY / "ips_bridge.f90", source, library, "-o", out)
    else:
        if not shutil.which("g++"):
            pytest.skip("needs g++")
        source = tmp_path / "ranks.cpp"
        source.write_text(CPP)
        run("g++", "-std=c++17", *STRICT, f"-I{LIBRARY}", source, library, "-o", out)
    return out


def test_a_program_puts_all_of_them(program, sinks, tmp_path):
    choice = BlockChoice((1, 2), ((0, 2), (2, 4)))
    specs = [*(array.spec for array in OFFERED), OFFERED[2].table.spec]
    contract = Contract(
        RUN,
        tuple(
            ArrayContract.agree(
                spec, run=RUN, blocks=choice if spec.name.startswith("rho") else None
            )
            for spec in specs
        ),
    )
    (sink,) = sinks()
    with coupling(tmp_path, [sink], contract) as (contact, _):
        run(program, env={**os.environ, "IPS_COMPONENTS_CONTACT": str(contact)})
        for step in range(2):
            u, x, rho, p, table = (sink.chunks[ordinal, step][0] for ordinal in range(5))
            assert u.tolist() == [10 * i + step for i in range(6)]
            assert x.tolist() == [[3, 3.5], [1, 1.5]]
            assert np.array_equal(rho, np.full((1, 2, 2), 2))
            assert p.tolist() == [7, 8, 9]
            assert table.tolist() == [[1, 2, 4]]
        del u, x, rho, p, table
