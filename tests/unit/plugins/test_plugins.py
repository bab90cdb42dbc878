"""Worker plugins without a cluster: files, archives, stacks."""

import asyncio
import os
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed.protocol.pickle import dumps, loads

from ips_components.plugins import ContinuousArchive, CopyAtTeardown, PluginStack
from ips_components.plugins import _archive as archive_module
from ips_components.plugins._archive import write_archive
from ips_components.plugins._copy import copy_tree

WORKER = SimpleNamespace(id="Worker-1/of 2")
WORD = "Worker-1_of_2"


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "source"
    (directory / "deep").mkdir(parents=True)
    (directory / "a.txt").write_text("a")
    (directory / "deep" / "b.bin").write_bytes(os.urandom(100_000))
    (directory / "link").symlink_to("a.txt")
    return directory


def _tree(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_files_are_copied_at_teardown(source, tmp_path):
    plugin = loads(dumps(CopyAtTeardown(source, tmp_path / "target")))
    asyncio.run(plugin.teardown(WORKER))
    assert _tree(tmp_path / "target") == _tree(source)


def test_each_worker_may_have_a_directory_of_its_own(source, tmp_path):
    asyncio.run(CopyAtTeardown(source, tmp_path / "target", per_worker=True).teardown(WORKER))
    assert _tree(tmp_path / "target" / WORD) == _tree(source)


def test_target_below_the_source_is_not_copied_into_itself(source):
    for _ in range(2):
        copy_tree(source, source / "target")
    assert set(_tree(source / "target")) == {"a.txt", "deep/b.bin"}


def test_a_failed_copy_leaves_no_half_of_a_file(source, tmp_path, monkeypatch):
    def full(_source, target):
        Path(target).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(OSError, match="disk full"):
        copy_tree(source, tmp_path / "target")
    assert _tree(tmp_path / "target") == {}


def test_archive_holds_everything(source, tmp_path):
    archive = tmp_path / "target" / "x.tar.gz"
    assert sorted(write_archive(source, archive)) == ["a.txt", "deep/b.bin"]
    with tarfile.open(archive) as tar:
        # Debian 12 has Python 3.11.2, which knows no filter yet; later ones ask for it.
        tar.extractall(
            tmp_path / "out", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    assert _tree(tmp_path / "out") == _tree(source)
    assert [path.name for path in archive.parent.iterdir()] == ["x.tar.gz"]


def test_archive_of_a_directory_that_is_not_there_yet_is_empty(tmp_path):
    assert write_archive(tmp_path / "none", tmp_path / "x.tar.gz") == []


def test_an_archive_that_does_not_read_back_leaves_the_last_good_one(source, tmp_path, monkeypatch):
    archive = tmp_path / "x.tar.gz"
    write_archive(source, archive)
    good = archive.read_bytes()
    monkeypatch.setattr(archive_module, "_read_back", lambda path: {})
    with pytest.raises(OSError, match="does not read back"):
        write_archive(source, archive)
    assert archive.read_bytes() == good
    assert [path.name for path in tmp_path.glob("*x.tar*")] == ["x.tar.gz"]


def test_a_file_that_grows_meanwhile_does_not_spoil_the_archive(source, tmp_path):
    ended = threading.Event()

    def grow():
        with (source / "a.txt").open("a") as file:
            while not ended.wait(0.001):
                file.write("more" * 1000)
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(5):
            write_archive(source, tmp_path / "x.tar.gz")
    finally:
        ended.set()
        thread.join()
    with tarfile.open(tmp_path / "x.tar.gz") as tar:
        assert tar.getnames() == ["a.txt", "deep/b.bin"]


def test_continuous_archive_archives_at_the_interval_and_at_the_end(source, tmp_path):
    plugin = loads(dumps(ContinuousArchive(source, tmp_path / "target", interval=0.05)))
    plugin.setup(WORKER)
    archive = tmp_path / "target" / f"{WORD}_archive.tar.gz"
    deadline = time.monotonic() + 20
    while not archive.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (source / "last.txt").write_text("written late")
    asyncio.run(plugin.teardown(WORKER))
    with tarfile.open(archive) as tar:
        assert "last.txt" in tar.getnames()


def test_an_interval_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="must be > 0 seconds, got 0"):
        ContinuousArchive(tmp_path, tmp_path, 0)


class _Noted:
    """A plugin that writes down what happens to it."""

    def __init__(self, name, notes, fails=""):
        self.name, self.notes, self.fails = name, notes, fails

    def setup(self, worker):
        self._note("setup")

    async def teardown(self, worker):
        self._note("teardown")

    def transition(self, key, start, finish, **keywords):
        self._note(f"{start}-{finish}")

    def _note(self, what):
        self.notes.append((self.name, what))
        if self.fails == what:
            raise ValueError(f"{self.name} fails in {what}")


async def _live(stack):
    await stack.setup(WORKER)
    stack.transition("x", "waiting", "memory")
    await stack.teardown(WORKER)


def test_a_stack_goes_up_and_down():
    notes = []
    stack = PluginStack([_Noted("a", notes), SimpleNamespace(), _Noted("b", notes)])
    assert stack.name == "a+SimpleNamespace+b"
    asyncio.run(_live(stack))
    assert notes == [
        ("a", "setup"),
        ("b", "setup"),
        ("a", "waiting-memory"),
        ("b", "waiting-memory"),
        ("b", "teardown"),
        ("a", "teardown"),
    ]


def test_a_stack_that_cannot_be_set_up_is_taken_down():
    notes = []
    stack = PluginStack([_Noted("a", notes), _Noted("b", notes, "setup"), _Noted("c", notes)])
    with pytest.raises(ValueError, match="b fails in setup") as caught:
        asyncio.run(_live(stack))
    assert caught.value.__notes__ == ["worker plugin _Noted could not be set up"]
    assert notes == [("a", "setup"), ("b", "setup"), ("a", "teardown")]


def test_one_teardown_that_fails_does_not_spare_the_others():
    notes = []
    stack = PluginStack([_Noted("a", notes), _Noted("b", notes, "teardown")])
    with pytest.raises(ValueError, match="b fails in teardown"):
        asyncio.run(_live(stack))
    assert notes[-1] == ("a", "teardown")
