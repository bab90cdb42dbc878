"""Random blocks with ghost cells and shared points, from sections with gaps: Fortran and C++."""

from itertools import product

import numpy as np
import pytest
from c_ranks import agree
from test_both_random import cut_at, some
from written_programs import listed, need_compiler, ran

from ips_components.model.spec import ArraySpec, StepAxis

FORTRAN = """
program ranks
    use ips_bridge
    implicit none
    integer, parameter :: NB = @boxes@, G(3) = [@shape@], L(3) = [@low@], H(3) = [@high@]
    integer, parameter :: O(3, NB) = reshape([@offsets@], [3, NB])
    integer, parameter :: C(3, NB) = reshape([@counts@], [3, NB])
    type(bridge) :: b
    type(bridge_array) :: t
    integer, allocatable :: blob(:)
    real(8), allocatable :: wide(:, :, :), block(:, :, :)
    integer :: status, step, n, i, j, k, e(3)
    call bridge_open(b, 0, 1, status)
    call bridge_declare(b, 't', 'f8', G, status, steps=2)
    call bridge_halo(b, 't', L, H, status)
    call bridge_shared(b, 't', [@owners@], status)
    do n = 1, NB
        call bridge_block(b, 't', 'f8', O(:, n), C(:, n), status)
        if (status /= 0) print *, bridge_error(b)
    end do
    call bridge_request(b, blob, status)
    call bridge_join(b, blob, status)
    call bridge_find(b, 't', t, status)
    if (status /= 0) print *, bridge_error(b)
    do step = 0, 1
        do n = 1, NB
            e = C(:, n) + L + H
            allocate (wide(2*e(1), e(2) + 2, e(3)), source=-1d0)
            allocate (block(e(1), e(2), e(3)), source=-2d0)
            do k = 1, C(3, n)
                do j = 1, C(2, n)
                    do i = 1, C(1, n)
                        block(i + L(1), j + L(2), k + L(3)) = 10000*step + (O(1, n) + i - 1) + &
                            G(1)*((O(2, n) + j - 1) + G(2)*(O(3, n) + k - 1))
                    end do
                end do
            end do
            wide(1:2*e(1):2, 2:e(2) + 1, e(3):1:-1) = block
            call bridge_put_block(t, step, wide(1:2*e(1):2, 2:e(2) + 1, e(3):1:-1), O(:, n), &
                C(:, n), status)
            if (status /= 0) print *, bridge_error(b)
            deallocate (wide, block)
        end do
    end do
    call bridge_close(b, status)
    call bridge_free(b)
end program ranks
"""

CPP = r"""
#include <ips_bridge.hpp>
int main()
{
    const ips::index shape{@shape@}, low{@low@}, high{@high@};
    const std::vector<ips::index> offsets{@offsets@}, counts{@counts@};
    ips::bridge bridge(0, 1);
    auto t = bridge.declare<double>("t", shape).steps(2).halo(low, high).shared({@owners@});
    for (std::size_t n = 0; n < offsets.size(); n++)
        t.block(offsets[n], counts[n]);
    bridge.connect();
    for (int step = 0; step < 2; step++)
        for (std::size_t n = 0; n < offsets.size(); n++) {
            const auto &o = offsets[n], &c = counts[n];
            std::int64_t e[3];
            for (std::size_t d = 0; d < 3; d++)
                e[d] = c[d] + low[d] + high[d];
            // the first dimension backwards, the second with gaps, the last between margins
            std::vector<double> wide(static_cast<std::size_t>(e[0] * 2 * e[1] * (e[2] + 2)), -1);
            const std::int64_t row = e[2] + 2, plane = 2 * e[1] * row;
            double *first = wide.data() + (e[0] - 1) * plane + 1;
            for (std::int64_t i = 0; i < c[0]; i++)
                for (std::int64_t j = 0; j < c[1]; j++)
                    for (std::int64_t k = 0; k < c[2]; k++)
                        first[-(i + low[0]) * plane + 2 * (j + low[1]) * row + k + low[2]] =
                            static_cast<double>(10000 * step + (o[0] + i) * shape[1] * shape[2] +
                                                (o[1] + j) * shape[2] + o[2] + k);
            t.put_block(step, first, o, c, {-8 * plane, 16 * row, 8});
        }
    bridge.close();
}
"""


@pytest.fixture(params=[0, 1])
def rng(request):
    return np.random.default_rng(request.param)


@pytest.mark.parametrize("language", ["fortran", "c++"])
def test_sections_of_random_blocks(rng, language, built, sinks, tmp_path):
    need_compiler(language)
    owners = [some(rng, ["NOBODY", "LOW", "HIGH"]) for _ in range(3)]
    more = [int(owner != "NOBODY") for owner in owners]
    edges = [cut_at(rng, int(rng.integers(3, 9)), 2, 1) for _ in owners]
    shape = [edge[-1] + m for edge, m in zip(edges, more, strict=True)]
    boxes = [
        [(e[i], e[i + 1] - e[i] + m) for e, i, m in zip(edges, at, more, strict=True)]
        for at in product(range(2), repeat=3)
    ]
    offsets = [[first for first, _ in box] for box in boxes]
    counts = [[count for _, count in box] for box in boxes]
    flat = language == "fortran"
    facts = {
        "boxes": len(boxes),
        "shape": listed(shape),
        "low": listed(rng.integers(0, 4, 3)),
        "high": listed(rng.integers(0, 4, 3)),
        "owners": listed(("BRIDGE_" if flat else "IPS_BRIDGE_") + owner for owner in owners),
    }
    for name, lists in (("offsets", offsets), ("counts", counts)):
        facts[name] = listed(listed(one) if flat else f"{{{listed(one)}}}" for one in lists)
    shape = shape[::-1] if flat else shape
    contract = agree(ArraySpec("t", "<f8", tuple(shape), StepAxis(count=2)))
    (sink,) = sinks()
    text = FORTRAN if flat else CPP
    with ran(language, text, facts, built, tmp_path, sink, contract):
        for step in range(2):
            expected = 10000 * step + np.arange(np.prod(shape)).reshape(shape)
            assert np.array_equal(sink.chunks[0, step][0], expected)
