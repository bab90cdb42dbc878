"""Parameters of a config that are given in Python instead: put into place, or refused."""

from pathlib import Path

import numpy as np
import pytest
from configobj import ConfigObj

from ips_components.config import check_files
from ips_components.config._overrides import as_written, override
from ips_components.errors import ConfigError

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs" / "heat2d_ipca.config"
PLATFORM = ROOT / "platform" / "workstation.conf"


def checked(tmp_path, monkeypatch, **changes):
    """The config that a run with these overrides would have."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PWD", str(ROOT))
    conf = override(CONFIG, changes)
    conf.filename = str(tmp_path / "changed.config")
    conf.write()
    found = check_files([Path(conf.filename)], PLATFORM)
    assert not found.errors, found.errors
    return found.runs[0]


def test_without_overrides_the_copy_means_the_same(tmp_path, monkeypatch):
    copy = checked(tmp_path, monkeypatch)
    original = check_files([CONFIG], PLATFORM).runs[0]
    assert copy.parameters() == {**original.parameters(), "FILE": copy.file}
    assert copy.analytics[0].input_dir == original.analytics[0].input_dir


def test_values_of_every_kind_arrive(tmp_path, monkeypatch):
    array = {"SHAPE": (64, 64), "CHUNKS": (1, (32, 32), -1), "STEPS": slice(0, 50, 5), "HALO": 1}
    run = checked(
        tmp_path,
        monkeypatch,
        NSTEP=np.int64(50),
        SIM_ROOT=tmp_path / "a b",
        MEMORY_SHARE=0.5,
        FIGURE=False,
        SIMULATION={
            "NPROC": 2,
            "ARGS": ["$PWD/examples/heat2d/heat2d.py", "--steps", "{NSTEP}", "--title", "a, b"],
            "ENVIRONMENT": {"OMP_NUM_THREADS": 2, "TITLE": "two words, and 'more'"},
        },
        IPCA={
            "ANALYSIS_ARGS": {"n_components": np.int32(4), "samples": ["a, b"], "size": None},
            "DASK_WORKERS_PER_NODE": 1,
            "ARRAYS": {"temperature": array},
        },
    )
    simulation, analytics = run.simulations[0], run.analytics[0]
    assert run.times.n_steps == 50
    assert run.sim_root == f"{tmp_path}/a b"
    assert simulation.nproc == 2
    assert simulation.args[-1] == "a, b"
    assert simulation.environment == {
        "OMP_NUM_THREADS": "2",
        "TITLE": "two words, and 'more'",
    }
    assert analytics.analysis_args == {"n_components": 4, "samples": ["a, b"], "size": None}
    assert (analytics.memory_share, analytics.figure, analytics.n_receivers) == (0.5, False, 1)
    (temperature,) = analytics.arrays
    assert temperature.shape == (64, 64)
    assert temperature.chunks == (1, (32, 32), -1)
    assert temperature.steps == {"start": 0, "every": 5, "count": 10}
    assert temperature.halo == 1


def test_none_takes_a_parameter_out(tmp_path, monkeypatch):
    run = checked(tmp_path, monkeypatch, ANALYSIS_ARGS=None)
    assert run.analytics[0].analysis_args == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NSTEPS": 50}, "NSTEPS: there is no such parameter; did you mean NSTEP?"),
        ({"nstep": 50}, "nstep: there is no such parameter; did you mean NSTEP?"),
        ({"NSTEP": "many"}, "TIME_LOOP NSTEP: expected a whole number >= 1, got 'many'"),
        ({"NSTEP": 2.5}, "TIME_LOOP NSTEP: expected a whole number >= 1, got 2.5"),
        ({"NPROC": 2}, "NPROC: may be meant for DRIVER, SIMULATION or ANALYTICS: say which"),
        ({"ANALYTICS": 3}, "ANALYTICS: is a section: give its parameters"),
        ({"ANALYTIC": {"FIGURE": False}}, "no such section or port; did you mean ANALYTICS?"),
        ({"ANALYTICS": {"FIGUR": False}}, "FIGUR is no parameter of this section; did you mean"),
        ({"TIME_LOOP": {"STEPS": 5}}, "STEPS is no parameter of this section"),
        ({"ANALYTICS": {"ARRAYS": {"u": {"SHPE": 5}}}}, "SHPE is no parameter of an array; did"),
        ({"ANALYTICS": {"ARRAYS": {"u": 5}}}, "give a mapping of mappings"),
        ({"FIGURE": object()}, "FIGURE: a config file cannot hold <object"),
        ({"SLOT_BYTES": 0}, "SLOT_BYTES: expected a whole number >= 1, got 0"),
        ({"MEMORY_SHARE": 1.5}, "MEMORY_SHARE: expected a number > 0 and <= 1, got 1.5"),
    ],
)
def test_mistakes_are_refused_with_the_remedy(changes, message):
    with pytest.raises(ConfigError) as refused:
        override(CONFIG, changes)
    assert "heat2d_ipca.config: 1 override cannot be applied" in str(refused.value)
    assert message in str(refused.value)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError, match="2 overrides cannot be applied"):
        override(CONFIG, {"NSTEP": "many", "FIGURE": "maybe"})


def test_a_relative_input_dir_stays_where_it_was(tmp_path):
    config = tmp_path / "a.config"
    config.write_text("[PORTS]\nNAMES = DRIVER\n[DRIVER]\nINPUT_DIR = input\n")
    conf = override(config, {})
    assert conf["DRIVER"]["INPUT_DIR"] == str(tmp_path / "input")
    assert conf["INPUT_DIR"] == str(tmp_path)


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.config: cannot be read"):
        override(tmp_path / "nothing.config", {})
    (tmp_path / "bad.config").write_text("no value\n")
    with pytest.raises(ConfigError, match=r"bad\.config: cannot be read"):
        override(tmp_path / "bad.config", {})


def test_what_is_written_is_read_again(tmp_path):
    conf = ConfigObj()
    conf.filename = str(tmp_path / "c")
    conf["A"], conf["B"] = as_written(["x y", "z"]), as_written({"a": [1, 2], "b": "c, d"})
    conf.write()
    again = ConfigObj(conf.filename)
    assert again["A"] == "x y, z"
    assert again["B"] == '{"a": [1, 2], "b": "c, d"}'


def test_a_run_may_have_no_analysis_and_forbid_to_attach(tmp_path, monkeypatch):
    run = checked(tmp_path, monkeypatch, ANALYSIS="", ANALYSIS_ARGS=None, ATTACH=False)
    assert run.analytics[0].analysis == ""
    assert run.analytics[0].attach is False
