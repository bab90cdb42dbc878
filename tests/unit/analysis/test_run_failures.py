"""What a run says when its analysis goes wrong, and which results it keeps."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client

from ips_components.analysis import replay
from ips_components.analysis.failures import details, portable
from ips_components.coordination import RunSettings
from ips_components.errors import AnalysisFailed, ContractError

STEPS, NY, NX = 6, 4, 5
FIELD = np.random.default_rng(0).random((STEPS, NY, NX))


@pytest.fixture(scope="module")
def client():
    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0"
    ) as client:
        yield client


@pytest.fixture
def run(client, tmp_path):
    """Run an analysis of this module over a stored field, in a task as live."""
    np.save(tmp_path / "t.npy", FIELD)

    def start(analysis, more=(), **settings):
        parsed = RunSettings(
            run="r",
            token="t",
            analysis=", ".join(f"{__name__}:{each.__name__}" for each in (analysis, *more)),
            results=str(tmp_path / "results.zarr"),
            run_dir=str(tmp_path),
            **settings,
        )
        future = client.submit(replay, parsed.to_dict(), tmp_path / "t.npy", pure=False)
        return future.result(60)

    return start


# -- nothing can be computed before the contract -------------------------------------------


def compares(arrays):
    if arrays["t"].max() > 0.5:
        return {"mean": arrays["t"].mean()}
    return None


def computes(arrays):
    return {"mean": arrays["t"].mean().compute()}


def converts(arrays):
    return {"mean": np.asarray(arrays["t"][0]).mean()}


def loads(arrays):
    return {"mean": arrays["t"].to_xarray().mean().load()}


def persists(arrays):
    return {"mean": arrays["t"].persist().mean()}


def loops(arrays):
    return {f"m{i}": row.sum() for i, row in enumerate(float(x) for x in arrays["t"][:, 0, 0])}


@pytest.mark.parametrize("analysis", [compares, computes, converts, loads, persists, loops])
def test_computing_before_the_contract_is_refused(run, analysis):
    with pytest.raises(ContractError, match=r"computes with array 't'.*do not exist before"):
        run(analysis)
    assert dask.config.get("scheduler", None) in (None, "dask.distributed")


def computes_other_things(arrays):
    limit = float(da.arange(10, chunks=5).mean().compute())
    return {"above": (arrays["t"] > limit / 9).sum(), "limit": limit}


def test_what_needs_no_external_array_may_be_computed(run):
    summary = run(computes_other_things)
    assert summary["variables"]["above"]["values"] == (FIELD > 0.5).sum()


def computes_committed(arrays, run):
    t = arrays["t"]
    run.commit({f"m{i}": t[i].mean() for i in range(2)})
    values = {name: float(value) for name, value in run.completed()}
    return {"larger": max(values.values()), "twice": da.ones(4, chunks=2) * 2}


def test_after_the_contract_values_may_be_used(run):
    found = run(computes_committed)["variables"]
    assert found["larger"]["values"] == pytest.approx(FIELD[:2].mean(axis=(1, 2)).max())
    assert found["twice"]["values"] == [2] * 4


def returns_too_late(arrays, run):
    run.commit({"first": arrays["t"][0].mean()})
    return {"second": arrays["t"][1].mean()}


def test_results_over_freed_chunks_are_refused(run):
    with pytest.raises(ContractError, match=r"'second' needs an external array.*run\.commit"):
        run(returns_too_late)


def computes_too_late(arrays, run):
    first = arrays["t"][0].mean()
    run.commit({"first": first})
    return {"second": float(first)}


def test_computing_over_freed_chunks_is_refused(run):
    with pytest.raises(ContractError, match=r"computes with array 't' after run\.commit"):
        run(computes_too_late)


# -- what is no result ---------------------------------------------------------------------


def text(arrays):
    return "done"


def nothing_lazy(arrays):
    return {"number": 3.0}


def nothing_external(arrays):
    return {"f": da.fft.rfftfreq(8)}


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        (text, r"returned a str \('done'\), which is no result"),
        (nothing_lazy, "no lazy result of an external array"),
        (nothing_external, "no lazy result of an external array"),
    ],
)
def test_an_analysis_without_results_fails(run, analysis, said):
    with pytest.raises(ContractError, match=said):
        run(analysis)


# -- results that share or lack something --------------------------------------------------


def same_key_twice(arrays):
    mean = arrays["t"].mean()
    total = dask.delayed(float)(arrays["t"].sum())
    return {"a": mean, "b": mean, "c": total, "d": total, "f": da.fft.rfftfreq(8)}


def test_results_that_share_a_key_are_all_written(run):
    found = run(same_key_twice)["variables"]
    assert found["a"]["values"] == found["b"]["values"] == pytest.approx(FIELD.mean())
    assert found["c"]["values"] == found["d"]["values"] == pytest.approx(FIELD.sum())
    assert found["f"]["shape"] == [5]


def first_of_two(arrays):
    return {"first": dask.delayed(float, pure=True)(arrays["t"].sum())}


def second_of_two(arrays):
    return {"second": dask.delayed(float, pure=True)(arrays["t"].sum())}


def test_results_of_two_analyses_that_share_a_key_are_both_written(run):
    found = run(first_of_two, more=[second_of_two])["variables"]
    names = ("first_of_two_first", "second_of_two_second")
    values = {name: each["values"] for name, each in found.items()}
    assert values == dict.fromkeys(names, pytest.approx(FIELD.sum()))


def plain(arrays):
    t = arrays["t"]
    return {"mean": t.mean(axis=0), "series": t.max(axis=(1, 2)), "later": t[2:].mean(axis=1)}


def test_plain_results_have_the_dimensions_of_their_source(run):
    found = run(plain)["variables"]
    assert found["mean"]["dims"] == ["y", "x"]
    assert found["series"]["dims"] == ["time"]
    # Another extent of time: a dimension of its own.
    assert found["later"]["dims"] == ["later_time", "x"]


def writes_itself(arrays, path):
    lazy = arrays["t"].to_xarray().mean("time").to_dataset(name="m")
    task = lazy.to_zarr(path, compute=False, consolidated=False)
    return {"mine": task, "n": arrays["t"].sum()}


def test_an_analysis_may_write_a_store_of_its_own(run, tmp_path):
    summary = run(writes_itself, parameters={"path": str(tmp_path / "own.zarr")})
    assert set(summary["variables"]) == {"n"}
    with xr.open_zarr(tmp_path / "own.zarr", consolidated=False) as found:
        np.testing.assert_allclose(found["m"], FIELD.mean(axis=0))


def one_bad(arrays):
    def boom(block):
        raise ZeroDivisionError("on purpose")

    return {"good": arrays["t"].mean(), "bad": arrays["t"].map_blocks(boom, dtype=float).sum()}


def unwritable(arrays):
    return {"good": arrays["t"].mean(), "bad": dask.delayed(set)([arrays["t"].sum()])}


@pytest.mark.parametrize(
    ("analysis", "error", "said"),
    [(one_bad, ZeroDivisionError, "on purpose"), (unwritable, ContractError, "'bad' is a set")],
)
def test_a_result_that_fails_leaves_the_others(run, tmp_path, analysis, error, said):
    with pytest.raises(error, match=said) as caught:
        run(analysis)
    notes = " ".join(caught.value.__notes__)
    assert "1 of 2 results are missing, 'bad' first" in notes and "kept" in notes
    with xr.open_zarr(tmp_path / "results.zarr") as found:
        assert float(found["good"]) == pytest.approx(FIELD.mean())
        assert set(found.data_vars) == {"good"}


# -- errors that travel --------------------------------------------------------------------


class OwnError(Exception):
    """A class that the process of the IPS component cannot import."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def raises_own(arrays):
    raise OwnError(7, "no convergence")


def exits(arrays):
    sys.exit("no input")


def wrong_axis(arrays):
    return {"m": arrays["t"].mean(axis=7)}


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        (raises_own, "OwnError: no convergence"),
        (exits, r"ended its process by sys.exit\('no input'\)"),
        (wrong_axis, "AxisError: Axis 7 is out of bounds"),
    ],
)
def test_errors_of_other_classes_arrive_as_text(run, analysis, said, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(AnalysisFailed, match=said) as caught:
        run(analysis)
    assert f"{__file__}, line " in caught.value.__notes__[0]
    assert f"in {analysis.__name__}" in caught.value.__notes__[0]
    assert caught.value.__context__ is None
    # The traceback is in the log.
    assert "Traceback" in caplog.text and analysis.__name__ in caplog.text


def test_a_syntax_error_names_its_line():
    try:
        compile("def f(:\n", "my_analysis.py", "exec")
    except SyntaxError as error:
        failure = portable(error)
    again = pickle.loads(pickle.dumps(failure))
    assert "SyntaxError: invalid syntax (my_analysis.py, line 1)" in str(again)


def test_errors_of_python_and_of_this_package_stay_what_they_are():
    for error in (KeyError("x"), ZeroDivisionError("z"), ContractError("c"), OSError(2, "gone")):
        assert portable(error) is error


def test_an_error_that_cannot_say_what_it_is_is_still_reported():
    class Broken(Exception):
        def __str__(self):
            return self.text  # an attribute that pickling has lost

    failure = portable(Broken("lost words"))
    assert str(failure) == "Broken: lost words"
    assert "lost words" in details(Broken("lost words"))


def test_a_failure_is_read_by_a_process_that_lacks_the_analysis():
    packed = pickle.dumps(portable(OwnError(7, "no convergence"))).hex()
    code = f"import pickle; print(pickle.loads(bytes.fromhex({packed!r})))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert said.stdout.strip() == "OwnError: no convergence"


def raises_from_own(arrays):
    try:
        raise OwnError(7, "no convergence")
    except OwnError as error:
        raise ValueError("bad input") from error


def test_what_an_error_came_from_arrives_as_text_too(run):
    with pytest.raises(ValueError, match="bad input") as caught:
        run(raises_from_own)
    assert str(caught.value.__cause__) == "OwnError: no convergence"
    assert isinstance(caught.value.__cause__, AnalysisFailed)
