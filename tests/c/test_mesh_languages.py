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
module errors
    implicit none
    integer :: n_errors = 0, last = 0
    character(:), allocatable :: text
contains
    subroutine note(code, words)
        integer, intent(in) :: code
        character(*), intent(in) :: words
        n_errors = n_errors + 1
        last = code
        text = words
    end subroutine note
end module errors

program ranks
    use ips_bridge
    use errors
    implicit none
    type(bridge) :: b
    integer, allocatable :: blob(:)
    type(bridge_array) :: u_array, x_array, rho_array, p_array
    integer, parameter :: ids(6) = [5, 0, 3, 1, 4, 2]
    real(8) :: u(6), x(2, 4), rho(2, 2, 2), p(6)
    real :: short(6)
    integer :: status, step, i

    call bridge_open(b, 0, 1, status)
    call bridge_set_error_handler(b, note, status)
    call done('handler')
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
    call bridge_find(b, 'u', u_array, status)
    call refused('before the join', 'not joined yet')
    call bridge_join(b, blob, status)
    call done('join')
    call bridge_find(b, 'none', u_array, status)
    call refused('an unknown name', 'array none was not declared')
    call bridge_put_rows(u_array, 0, u, 6, status)
    if (status /= BRIDGE_USAGE) error stop 'an array that was not found'
    call bridge_find(b, 'u', u_array, status)
    call done('find')
    call bridge_find(b, 'x', x_array, status)
    call bridge_find(b, 'rho', rho_array, status)
    call bridge_find(b, 'p', p_array, status)
    short = 0
    call bridge_put_rows(u_array, 0, short, 6, status)
    call refused('cells of another size', 'cells have 4 bytes')
    call bridge_put_rows(b, 'u', 0, u(:5), 6, status)
    call refused('fewer rows', 'row 5 is put of 5 rows')
    call bridge_put_rows(b, 'x', 0, x, 2, status, index=[0, 2])
    call refused('an index below the rows', 'index -1 is put of 4 rows')
    call bridge_put_rows(b, 'x', 0, x(:1, :), 2, status)
    call refused('a row of one cell', 'have another shape')
    call bridge_put_rows(b, 'rho', 0, rho, 2, status, levels=[0, 1])
    call refused('levels alone', 'a level and a place')
    call bridge_put_rows(b, 'rho', 0, rho, 2, status, levels=[0, 1], &
        places=reshape([0, 0], [1, 2]))
    call refused('a place of one number', 'a level and a place')
    call bridge_put_rows(b, 'u', 0, u, 6, status, ids=ids(:5))
    call refused('fewer ids', 'each row has an id')
    do step = 0, 1
        u = 10 * ids + step
        if (step == 0) call bridge_put_rows(b, 'u', step, u, 6, status)
        if (step == 1) call bridge_put_rows(u_array, step, u(6:1:-1), 6, status, ids=ids(6:1:-1))
        call done('u')
        do i = 1, 4
            x(:, i) = [i - 1.0d0, i - 0.5d0]
        end do
        if (step == 0) call bridge_put_rows(b, 'x', step, x, 2, status, index=[4, 2])
        if (step == 1) call bridge_put_rows(x_array, step, x(:, 4:2:-2), 2, status)
        call done('x')
        rho(:, :, 1) = 1
        rho(:, :, 2) = 2
        if (step == 0) call bridge_put_rows(b, 'rho', step, rho, 2, status, levels=[0, 1], &
            places=reshape([0, 0, 4, 2], [2, 2]))
        if (step == 1) call bridge_put_rows(rho_array, step, rho, 2, status, levels=[0, 1], &
            places=reshape([0, 0, 4, 2], [2, 2]))
        call done('rho')
        p = -1
        p(2:4) = [7, 8, 9]
        if (step == 0) call bridge_put(b, 'p', step, p, status)
        if (step == 1) call bridge_put(p_array, step, p, status)
        call done('p')
    end do
    call bridge_put_rows(b, 'x', 1, x, 2, status, index=[5, 2])
    call refused('an index beyond the rows', 'row 4 is put of 4 rows')
    if (n_errors /= 10) error stop 'the handler was not called at every error'
    call bridge_set_error_handler(b, status=status)
    call done('no handler')
    call bridge_put_rows(b, 'x', 1, x, 2, status, index=[5, 2])
    if (status /= BRIDGE_USAGE .or. n_errors /= 10) error stop 'a handler that is gone'
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

    subroutine refused(what, why)
        character(*), intent(in) :: what, why
        if (status == last .and. status > 0 .and. index(text, why) > 0) return
        print '(3a)', what, ': ', bridge_error(b)
        error stop 2
    end subroutine refused
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
