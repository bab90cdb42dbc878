"""One graph over the steps of a simulation that does not say how many it puts."""

from dataclasses import replace

import dask
import numpy as np
import pytest
from distributed.protocol import pickle

from ips_components.analysis.growing import Growth, markers
from ips_components.analysis.open_analysis import MAX_BOUND, OpenAnalysis
from ips_components.errors import (
    ContractError,
    ExternalTaskError,
    IPSComponentsError,
    SelectionError,
)
from ips_components.model import ChunkLayout, Selection, StepAxis
from ips_components.model.absent import ABSENT

from .simulated import deliver, field_of, offer
from .test_at_most import REFUSED, RESULTS
from .test_at_most import spec as bounded_spec

MOST = 64


def spec(name="u", **options):
    axis = bounded_spec(name, **options).steps
    return replace(bounded_spec(name, **options), steps=StepAxis(axis.start, axis.every))


class Simulated:
    """A scheduler and a simulation: parts of the graph are computed as soon as they are there."""

    def __init__(self, analysis, came, *specs, first=2, streaming=True):
        offered = offer(*(specs or (spec(),)), n_receivers=2)
        self.calls = 0

        def call(arrays, bound):
            self.calls += 1
            return analysis(arrays)

        self.open = OpenAnalysis(offered, call, streaming=streaming)
        bound = self.open.agree(first)
        self.external = {}
        for array in self.open.contracts.values():
            finite = array
            if array.spec.steps.open_ended:
                finite = self._until(array, MOST)
            field = field_of(finite.spec)
            for key, value in deliver(finite, field).items():
                gone = array.spec.steps.at_most and array.spec.steps.step(key[1]) >= came
                self.external[key] = ABSENT if gone else value
        self.growth = Growth(self.open.graph, bound, self.open.open_names)
        self.values, self.known = {}, {}
        self.submitted = []
        while True:
            self._submit(self.growth.part())
            self.held = len(self.growth.held)
            self.known |= self._results(self.growth.complete)
            if self.growth.over or self.growth.bound >= came:
                break
            self.growth.grow()
        self._submit(self.growth.rest(), last=True)
        self.known |= self._results(self.growth.keys)

    @staticmethod
    def _until(array, count):
        """Return the contract of the first steps, for the ranks in miniature."""
        layout = array.layout
        finite = ChunkLayout((count, *layout.shape[1:]), ((1,) * count, *layout.chunks[1:]))
        box = Selection.full(finite.shape)
        cut = [each.intersect(box) for each in (array.cover, *array.wanted)]
        return replace(
            array,
            spec=replace(array.spec, steps=replace(array.spec.steps, count=count)),
            layout=finite,
            cover=cut[0],
            wanted=tuple(cut[1:]),
        )

    def _submit(self, tasks, last=False):
        """Compute what is new, of what was kept before and of the chunks that are there."""
        growth = self.growth
        tasks = pickle.loads(pickle.dumps(tasks))
        self.submitted.append(len(tasks))
        assert not tasks.keys() & self.values.keys()
        rows = growth.bound
        there = {k: v for k, v in self.external.items() if k[1] < rows}
        wanted = [key for key in tasks if last or key in growth.kept or key in growth.keys.values()]
        found = dask.get({**tasks, **there, **self.values}, wanted)
        self.values |= dict(zip(wanted, found, strict=True))
        if not last:  # what is not kept is gone
            results = set(growth.keys.values())
            self.values = {k: v for k, v in self.values.items() if k in growth.kept or k in results}
            self.external = {
                k: v for k, v in self.external.items() if k[1] >= rows or k in growth.held
            }

    def _results(self, names):
        return {name: self.values[self.growth.keys[name]] for name in names}


def run(analysis, came, *specs, **options):
    return Simulated(analysis, came, *specs, **options).known


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("came", [2, 5, 16, 33])
@pytest.mark.parametrize("name", [name for name in RESULTS if name != "differences"])
def test_results_are_those_of_the_steps_that_came(name, came, streaming):
    lazy, plain = RESULTS[name]
    value = run(lambda arrays: {name: lazy(arrays["u"])}, came, streaming=streaming)[name]
    expected = plain(field_of(bounded_spec(count=MOST))[:came])
    assert np.shape(value) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(value), expected, rtol=1e-12, atol=1e-14)


STREAMED = (
    "mean",
    "sum",
    "std",
    "nanmean",
    "min",
    "any",
    "last",
    "curve",
    "strided",
    "mean of strided",
    "histogram",
    "own histogram",
    "moments",
    "xarray mean",
    "per step",
    "singular_values_ of PCA over x",
    "components_ of PCA over y",
    "cumsum",
    "trained model",
)


@pytest.mark.parametrize("name", [name for name in STREAMED if name in RESULTS])
def test_no_chunk_is_held_for_results_that_stream(name):
    lazy, _ = RESULTS[name]
    simulated = Simulated(lambda arrays: {name: lazy(arrays["u"])}, 33)
    assert simulated.held == (2 if name == "last" else 0)  # the newest step of all
    assert simulated.calls == 1 + 6  # for 2, 4, ... 128 steps
    assert simulated.submitted[-1] < 40  # the end is a few tasks


def test_what_is_needed_at_the_end_is_held_until_then():
    simulated = Simulated(lambda arrays: {"anomaly": arrays["u"] - arrays["u"].mean(axis=0)}, 33)
    assert simulated.held == 64 * 2


def test_results_that_are_known_early_are_there_with_the_first_graph():
    def analysis(arrays):
        return {"first": arrays["u"][0].mean(), "sum": arrays["u"].sum()}

    offered = offer(spec())
    opened = OpenAnalysis(offered, lambda arrays, bound: analysis(arrays))
    bound = opened.agree(4)
    growth = Growth(opened.graph, bound, opened.open_names)
    growth.part()
    assert growth.complete == {"first"} and not growth.over


def test_a_graph_that_needs_no_further_step_is_complete():
    simulated = Simulated(lambda arrays: {"few": arrays["u"][:6].mean(axis=0)}, 33, first=8)
    assert simulated.growth.over and simulated.growth.bound == 8
    u = field_of(bounded_spec(count=MOST))
    np.testing.assert_allclose(simulated.known["few"], u[:6].mean(axis=0))


def test_names_that_differ_at_each_call_keep_the_data_and_the_numbers_right():
    def analysis(arrays):
        steps = {f"{i}": dask.delayed(np.mean)(arrays["u"][i]) for i in range(3)}
        return {**steps, "mean": arrays["u"].mean()}

    values = run(analysis, 20)
    u = field_of(bounded_spec(count=MOST))
    for i in range(3):
        np.testing.assert_allclose(values[f"{i}"], u[i].mean())
    np.testing.assert_allclose(values["mean"], u[:20].mean())


def test_fields_at_different_steps_and_one_that_is_put_once():
    def analysis(arrays):
        u, s, volume = arrays["u"], arrays["s"], arrays["volume"]
        return {"both": (u * volume[0]).sum(axis=(1, 2)), "sparse": s.mean(axis=0)}

    once = bounded_spec("volume", count=1, at_most=False)
    values = run(analysis, 30, spec("u"), spec("s", every=4), once)
    u, s = (field_of(bounded_spec(name, count=MOST)) for name in "us")
    np.testing.assert_allclose(values["both"], (u[:30] * field_of(once)[0]).sum(axis=(1, 2)))
    np.testing.assert_allclose(values["sparse"], s[:8].mean(axis=0))


def test_labelled_results_have_the_steps_that_came_as_coordinates():
    def analysis(arrays):
        u = arrays["u"].to_xarray()
        return {"curve": u.sum(("y", "x")), "some": arrays["u"][::2, 1].to_xarray()}

    values = run(analysis, 40, spec(start=10, every=3))
    assert values["curve"]["time"].values.tolist() == list(range(10, 40, 3))
    assert values["some"]["time"].values.tolist() == list(range(10, 40, 6))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused_before_step_0(name):
    offered = offer(spec())
    with pytest.raises((IPSComponentsError, ValueError, AssertionError)) as error:
        opened = OpenAnalysis(offered, lambda arrays, bound: {name: REFUSED[name](arrays["u"])})
        Growth(opened.graph, opened.agree(64), opened.open_names)
    assert not isinstance(error.value, ExternalTaskError)
    assert "at most 64" not in str(error.value)  # which is not declared


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (np.s_[:], "[:, :6, :5]"),
        (np.s_[::3, 1:2], "[::3, 1, :5]"),
        (np.s_[5:, ..., ::2], "[5:, :6, :5:2]"),
        (np.s_[40::50], "[40::50, :6, :5]"),
        (np.s_[:7], "[:7, :6, :5]"),
        (np.s_[5:64], "[5:64, :6, :5]"),
        (np.s_[100], "[100, :6, :5]"),
        (np.s_[-1], "[:, :6, :5]"),
    ],
)
def test_the_contract_is_what_is_needed_of_all_steps(key, said):
    opened = OpenAnalysis(offer(spec()), lambda arrays, bound: {"r": arrays["u"][key].sum()})
    bound = opened.agree(64)
    assert bound == (128 if key in (np.s_[100], np.s_[40::50]) else 64)
    contract = opened.contracts["u"]
    assert str(contract.cover) == said and len(contract.wanted) == 1
    assert contract.spec.steps == StepAxis() and contract.spec.steps.at_most


@pytest.mark.parametrize(
    "cut",
    [
        lambda u: u[::4],
        lambda u: u[3::8],
        lambda u: u[::2][::2],
        lambda u: u[::3][1::5],
        lambda u: u[::16, 2],
        lambda u: (u * 2)[::7],
        lambda u: u[:20:9],
    ],
)
@pytest.mark.parametrize("reduced", [True, False])
def test_strides_longer_than_the_first_graphs(cut, reduced):
    def analysis(u):
        return cut(u).sum(axis=0) if reduced else cut(u)

    value = run(lambda arrays: {"r": analysis(arrays["u"])}, 40, first=2)["r"]
    expected = analysis(field_of(bounded_spec(count=MOST))[:40])
    np.testing.assert_allclose(value, expected, strict=True)


def test_steps_that_are_needed_in_no_clear_order_come_all():
    def analysis(arrays, bound):
        return {"r": arrays["u"][: bound // 2 + 1, 2:4].sum()}

    opened = OpenAnalysis(offer(spec()), analysis)
    opened.agree(64)
    assert str(opened.contracts["u"].cover) == "[:, 2:4, :5]"


def test_two_selections_are_agreed_apart():
    def analysis(arrays, bound):
        return {"a": arrays["u"][::4].sum(), "b": arrays["u"][:, :2].sum(), "c": arrays["u"][3]}

    opened = OpenAnalysis(offer(spec()), analysis)
    opened.agree(64)
    contract = opened.contracts["u"]
    cells = [
        sum(box.size for part in contract.wanted if (box := part.intersect(step)) is not None)
        for step in (Selection.from_key(np.s_[t : t + 1], (MOST, 6, 5)) for t in range(9))
    ]
    assert cells == [30, 10, 10, 30, 30, 10, 10, 10, 30]


def test_a_graph_that_asks_for_more_than_was_agreed_is_refused():
    def analysis(arrays, bound):
        return {"r": arrays["u"][:, : 2 if bound < 16 else 4].sum()}

    with pytest.raises(ContractError, match=r"did not need before.* called again .* run\.rolling"):
        Simulated(lambda arrays: analysis(arrays, arrays["u"].numblocks[0]), 33)


def test_a_graph_that_needs_data_again_is_refused():
    calls = []

    def analysis(arrays):
        calls.append(arrays)
        u = arrays["u"]
        return {"r": (u if len(calls) < 4 else u * 1.0).sum(axis=0)}

    with pytest.raises(ContractError, match=r"again, which nothing needed .* run\.rolling"):
        Simulated(analysis, 33)


def test_other_results_later_are_refused():
    calls = []

    def analysis(arrays):
        calls.append(arrays)
        return {"a" if len(calls) < 3 else "b": arrays["u"].sum(axis=0)}

    with pytest.raises(ContractError, match=r"returned the results \['b'\], and \['a'\] before"):
        Simulated(analysis, 33)


def test_a_step_too_far_is_refused_with_the_remedy():
    opened = OpenAnalysis(offer(spec()), lambda arrays, bound: {"r": arrays["u"][: 10**9].sum()})
    with pytest.raises(ContractError, match=r"step index 999999999 is asked for.* AT_MOST = True"):
        opened.agree(64)


def test_negative_numbers_of_steps_name_the_remedy():
    def analysis(arrays, bound):
        return {"r": arrays["u"][:-1].sum()}

    with pytest.raises(SelectionError, match="'u' has any number of steps: a slice"):
        OpenAnalysis(offer(spec()), analysis).agree(64)


def test_a_graph_has_an_end(monkeypatch):
    monkeypatch.setattr("ips_components.analysis.growing.MAX_BOUND", 16)
    with pytest.raises(
        ContractError, match=r"more than 16 steps came.*run\.rolling.*AT_MOST = True"
    ):
        Simulated(lambda arrays: {"r": arrays["u"].sum()}, 33)
    assert MAX_BOUND > 10**5


def test_a_marker_is_half_way_among_the_steps_that_are_needed():
    opened = OpenAnalysis(
        offer(spec("u"), spec("p")),
        lambda arrays, bound: {"u": arrays["u"][3::50].sum(), "p": arrays["p"][:9].sum()},
    )
    opened.agree(64)
    found = {(name, index) for name, index, _ in markers(opened.contracts, 0, 64)}
    assert found == {("u", 53), ("p", 8)}
    assert {(name, index) for name, index, _ in markers(opened.contracts, 64, 128)} == {("u", 103)}
