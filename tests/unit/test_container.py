"""Version reports of two sides: what counts as equal, and what a refusal says."""

from __future__ import annotations

import pytest

from ips_components.errors import UnsupportedVersion
from ips_components.ips_compat.container import check_versions, mismatches


def report(**changed: str | None) -> dict[str, dict[str, str | None]]:
    packages: dict[str, str | None] = {
        "python": "3.11.7.final.0",
        "dask": "2026.8.0",
        "distributed": "2026.8.0",
        "ips_components": "0.1.0",
        "numpy": "2.4.6",
    }
    return {"packages": packages | changed}


class Client:
    """What `check_versions` needs of a client."""

    def __init__(self, scheduler, *workers):
        self.answer = {
            "client": report(),
            "scheduler": scheduler,
            "workers": {f"tcp://{i}": worker for i, worker in enumerate(workers)},
        }

    def get_versions(self, packages):
        assert packages == ["ips_components"]
        return self.answer


def test_equal_versions_agree():
    check_versions(Client(report(), report(), report()))


@pytest.mark.parametrize(
    ("package", "version"), [("python", "3.11.2.final.0"), ("numpy", "2.4.0"), ("numpy", None)]
)
def test_harmless_differences_agree(package, version):
    assert mismatches(report(), {"scheduler": report(**{package: version})}) == []


@pytest.mark.parametrize(
    ("package", "outside", "version", "inside"),
    [
        ("python", "3.11", "3.12.1.final.0", "3.12"),
        ("dask", "2026.8.0", "2026.7.1", "2026.7.1"),
        ("distributed", "2026.8.0", "2026.7.1", "2026.7.1"),
        ("ips_components", "0.1.0", None, "not installed"),
    ],
)
def test_each_package_is_refused_with_both_versions(package, outside, version, inside):
    client = Client(report(), report(**{package: version}), report())
    with pytest.raises(UnsupportedVersion) as refused:
        check_versions(client)
    sentence = f"{package} is {outside} outside, but {inside} inside (worker tcp://0)"
    assert sentence in str(refused.value)
    assert "agree" in str(refused.value)


def test_peers_of_one_version_share_a_sentence():
    old = report(dask="2026.7.1")
    peers = {"scheduler": old} | {f"worker {i}": old for i in range(9)}
    assert mismatches(report(), peers) == [
        "dask is 2026.8.0 outside, but 2026.7.1 inside (scheduler, worker 0, worker 1 and 7 more)"
    ]
