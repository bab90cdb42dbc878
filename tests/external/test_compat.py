"""The span of versions: a clear error outside, a warning beyond, private names in one place."""

from __future__ import annotations

import re
from pathlib import Path

import distributed
import pytest
from distributed.scheduler import SchedulerState

from ips_components import external
from ips_components.errors import UnsupportedVersion
from ips_components.external import _compat_versions


def test_the_installed_version_is_in_the_span():
    assert _compat_versions.parse_version(distributed.__version__) >= _compat_versions.OLDEST
    assert _compat_versions.missing_names() == []
    _compat_versions.check()


@pytest.mark.parametrize("version", ["2022.1.0", "2024.12.1", "2025.5.0"])
def test_an_older_version_is_refused(version):
    with pytest.raises(UnsupportedVersion, match=rf"2025\.5\.1 to .* found {version}.*pip install"):
        _compat_versions.check(version)


def test_a_newer_version_that_passes_the_self_check_is_used_with_a_warning():
    with pytest.warns(UserWarning, match=r"passes the self-check"):
        _compat_versions.check("2099.1.0")


def test_a_version_that_lacks_a_name_is_refused(monkeypatch):
    monkeypatch.delattr(SchedulerState, "_add_to_memory")
    with pytest.raises(UnsupportedVersion, match=r"lacks .*SchedulerState\._add_to_memory"):
        _compat_versions.check("2098.1.0")


def test_a_version_that_lacks_a_transition_is_refused(monkeypatch):
    table = dict(SchedulerState._TRANSITIONS_TABLE)
    del table["waiting", "memory"]
    monkeypatch.setattr(SchedulerState, "_TRANSITIONS_TABLE", table)
    with pytest.raises(UnsupportedVersion, match="waiting -> memory"):
        _compat_versions.check("2097.1.0")


@pytest.mark.parametrize(
    ("text", "numbers"), [("2026.8.0", (2026, 8, 0)), ("2026.8.0+1.g", (2026, 8, 0)), ("x", ())]
)
def test_versions_are_read_leniently(text, numbers):
    assert _compat_versions.parse_version(text) == numbers


#: Files of the external tasks; what the run and the arrays do is their own affair.
PACKAGE = Path(external.__file__).parent.parent
OURS = sorted(
    str(path.relative_to(PACKAGE))
    for folder in ("external", "coordination", "analysis", "receiver", "ips")
    for path in (PACKAGE / folder).glob("*.py")
    if not path.name.startswith("_compat")
)


@pytest.mark.parametrize("module", OURS)
def test_private_names_of_dask_are_touched_in_one_place_only(module):
    source = (PACKAGE / module).read_text()
    foreign = re.findall(r"\b(?:scheduler|worker|client|ts|cs|state|future)\._[a-z]\w+", source)
    own = {"self._scheduler"}
    assert [name for name in foreign if f"self.{name}" not in own] == []
