import operator

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ips_components.analysis.contract import contract_from_graph

from .simulated import RUN, couple, deliver, execute, field_of, offer, spec

SPEC = spec()
FIELD = field_of(SPEC)


def cells(contract):
    return sum(part.size for part in contract["t"].wanted)


@pytest.mark.parametrize(
    ("function", "needed"),
    [
        (lambda x: x.T[3], 20 * 12),
        (lambda x: np.moveaxis(x, 0, -1)[2, :, 4], 8),
        (lambda x: np.transpose(x, (1, 2, 0))[..., 5], 12 * 8),
        (lambda x: x.astype("f4")[7], 12 * 8),
        (lambda x: (x * 2 + 1)[::4, 3:5], 5 * 2 * 8),
        (lambda x: np.sqrt(abs(-x))[:, 6, ::-2], 20 * 4),
        (lambda x: (1 - x)[-1], 12 * 8),
        (lambda x: np.where(x > 0.5, x, 0)[5, 5], 8),
        (lambda x: (x - x[0])[9, :, 2], 24),
        (lambda x: (x * np.arange(8))[3, 3], 8),
        (lambda x: (x * np.arange(12)[:, None])[3, 3], 8),
        (lambda x: ((x + 1).T ** 2)[1][4], 20),
        (lambda x: (x[:, 2:4] < 0.5)[6], 16),
        # Backwards, the first operand is an ordinary array, and the other one derived.
        (lambda x: (x - (x * 2)[:1])[::-1], 20 * 12 * 8),
        (lambda x: (x - x[:1])[::-1, 3], 20 * 8),
    ],
)
def test_a_slice_of_a_result_asks_for_its_cells_only(function, needed):
    value, contract, _ = couple(lambda a: function(a["t"]), SPEC)
    expected = function(FIELD)
    np.testing.assert_allclose(value, expected)
    assert value.dtype == expected.dtype
    assert cells(contract) == needed


UNARY = [
    operator.neg,
    abs,
    np.sqrt,
    lambda x: x.T,
    lambda x: x.astype("f4"),
    lambda x: np.moveaxis(x, 0, -1),
    lambda x: x * 3,
    lambda x: 2 - x,
    lambda x: x > 0.3,
]
BINARY = [
    operator.add,
    operator.mul,
    np.maximum,
    lambda a, b: np.where(a > b, a, b),
    lambda a, b: a - b[:1],
    lambda a, b: a[..., :1] * b,
]


@st.composite
def indices(draw, shape):
    items = []
    for n in shape:
        bound = st.none() | st.integers(-n, n)
        step = draw(st.sampled_from([None, 1, 2, -1, -3]))
        items.append(draw(st.integers(-n, n - 1) | st.just(slice(draw(bound), draw(bound), step))))
    return tuple(items[: draw(st.integers(0, len(items)))])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_expressions_equal_numpy(data):
    small = spec(shape=(4, 5), count=6)
    values = field_of(small)
    arrays = offer(small, chunks=(2, 3, 5))
    pairs = [(arrays["t"], values)]
    for _ in range(data.draw(st.integers(1, 6))):
        lazy, value = data.draw(st.sampled_from(pairs))
        kind = data.draw(st.integers(0, 2))
        if kind == 0 and value.ndim:
            key = data.draw(indices(value.shape))
            pair = lazy[key], value[key]
        elif kind == 1 and value.ndim:
            other, beside = data.draw(st.sampled_from(pairs))
            function = data.draw(st.sampled_from(BINARY))
            if beside.shape != value.shape or value.dtype == bool or beside.dtype == bool:
                continue
            pair = function(lazy, other), function(value, beside)
        elif value.dtype != bool:
            function = data.draw(st.sampled_from(UNARY))
            with np.errstate(invalid="ignore"):
                pair = function(lazy), function(value)
        else:
            continue
        assert (pair[0].shape, pair[0].dtype) == (pair[1].shape, pair[1].dtype)
        if pair[1].size:
            pairs.append(pair)
    lazy, value = pairs[-1]
    contract = contract_from_graph(lazy, arrays, run=RUN)
    with np.errstate(invalid="ignore"):
        found, _ = execute(lazy, deliver(contract["t"], values))
    np.testing.assert_allclose(found, value, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x * 2])
def test_what_was_assigned_to_is_not_sliced_from_the_source(make):
    def analysis(a):
        y = make(a["t"])
        y[2] = 7.0
        return y[1:4, 3]

    value, _, _ = couple(analysis, SPEC)
    expected = make(FIELD).copy()
    expected[2] = 7.0
    np.testing.assert_allclose(value, expected[1:4, 3])


def test_numpy_functions_take_external_and_derived_arrays_together():
    def analysis(a):
        x = a["t"]
        y = x * 2
        assert np.result_type(x, y) == np.dtype("f8")
        return np.stack([x, y])[:, 3, 2], np.concatenate([y, x])[5]

    values, _, _ = couple(lambda a: list(analysis(a)), SPEC)
    np.testing.assert_allclose(values[0], np.stack([FIELD, FIELD * 2])[:, 3, 2])
    np.testing.assert_allclose(values[1], FIELD[5] * 2)


def test_other_indices_are_left_to_dask():
    value, _, _ = couple(lambda a: (a["t"] * 2)[:, [3, 1], 2], SPEC)
    np.testing.assert_allclose(value, (FIELD * 2)[:, [3, 1], 2])
    y = offer(SPEC)["t"] * 2
    with pytest.raises(IndexError):
        y[20]
    assert isinstance(y.blocks[0], da.Array) and y[()] is y and y[:0].shape == (0, 12, 8)
