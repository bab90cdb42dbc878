"""The contact file is believed only when it is whole, ours, and private."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from ips_components.errors import ContactError
from ips_components.wire import contact as contacts
from ips_components.wire.contact import Contact, Endpoint


@pytest.fixture
def contact():
    endpoint = Endpoint(0, "127.0.0.1", 4000, "@1", *contacts.host_identity(), os.getpid())
    return Contact("run", contacts.new_token(), (endpoint,), {"step": 9.0})


def test_what_is_written_is_read(tmp_path, contact):
    contacts.write(tmp_path / "contact", contact)
    assert contacts.read(tmp_path / "contact") == contact
    assert stat.S_IMODE((tmp_path / "contact").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["contact"]
    assert contact.endpoints[0].local


def test_defaults_are_filled_in(contact):
    assert contact.deadlines == {**contacts.DEADLINES, "step": 9.0}
    assert contact.options["replay_steps"] == contacts.OPTIONS["replay_steps"]


def test_token_is_in_no_representation(contact):
    assert contact.token not in repr(contact)


def test_the_live_page_is_in_the_file_for_people_only(tmp_path, contact):
    url = "http://127.0.0.1:1/secret-part-of-the-address/"
    watched = replace(contact, live_page=url)
    contacts.write(tmp_path / "contact", watched)
    assert json.loads((tmp_path / "contact").read_text())["live_page"] == url
    assert contacts.read(tmp_path / "contact") == watched
    assert url not in repr(watched)
    assert watched.to_bytes() == contact.to_bytes()
    assert "live_page" not in contact.to_json()


def test_binary_form(contact):
    assert Contact.from_bytes(contact.to_bytes()) == contact
    assert bytes.fromhex(contact.to_json()["binary"]) == contact.to_bytes()
    for cut in (3, 100, len(contact.to_bytes()) - 1):
        with pytest.raises(ContactError):
            Contact.from_bytes(contact.to_bytes()[:cut])


def test_contact_vector():
    vectors = json.loads((Path(__file__).parents[2] / "conformance" / "wire.json").read_text())
    fields = vectors["contact"]["fields"]
    assert Contact.from_json(fields).to_bytes().hex() == vectors["contact"]["binary"]


def test_a_file_that_others_may_read_is_refused(tmp_path, contact):
    contacts.write(tmp_path / "contact", contact)
    (tmp_path / "contact").chmod(0o640)
    with pytest.raises(ContactError, match="mode 0640, expected 0600"):
        contacts.read(tmp_path / "contact")


def test_a_file_of_somebody_else_is_refused(tmp_path, contact, monkeypatch):
    contacts.write(tmp_path / "contact", contact)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ContactError, match="belongs to user"):
        contacts.read(tmp_path / "contact")


def test_links_and_pipes_are_refused(tmp_path, contact):
    contacts.write(tmp_path / "real", contact)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="link"):
        contacts.read(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ContactError, match="regular file"):
        contacts.read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a contact file"),
        ({"version": 99}, "version 99"),
        ({"token": "zz"}, "64 hexadecimal"),
        ({"run": ""}, "run id"),
        ({"endpoints": [{"host": 1}]}, "damaged"),
        ({"endpoints": 3}, "damaged"),
        ({"options": {"on_analytics_loss": "panic"}}, "on_analytics_loss"),
        ({"options": {"lanes": ["pigeon"]}}, "lanes"),
    ],
)
def test_content_is_checked(contact, change, message):
    with pytest.raises(ContactError, match=message):
        Contact.from_json({**contact.to_json(), **change})


def test_text_that_is_not_json(tmp_path):
    (tmp_path / "contact").write_text("{")
    (tmp_path / "contact").chmod(0o600)
    with pytest.raises(ContactError, match="damaged"):
        contacts.read(tmp_path / "contact")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, contact, monkeypatch):
    contacts.write(tmp_path / "contact", contact)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        contacts.write(tmp_path / "contact", Contact("other", contacts.new_token(), ()))
    assert contacts.read(tmp_path / "contact") == contact
    assert len(list(tmp_path.iterdir())) == 1
