"""Ranks in a network namespace of their own, as containers have: what they cannot reach is said."""

import os
import shutil
import subprocess
import sys

import pytest
from _pair import RUN, TOKEN, Receiver, RememberingSink

from ips_components.wire import contact as contacts

RANK = """
import sys
from ips_components.bridge import Array, Bridge
Bridge(contact=sys.argv[1], arrays=[Array("t", (4,), steps=2)])
"""
OPTIONS = {"connect": 1.0, "contract": 5.0, "step": 5.0, "drain": 5.0, "silence": 5.0}


@pytest.mark.parametrize("other_name", [False, True])
def test_a_receiver_on_another_loopback_interface_is_said_to_need_loopback_false(
    tmp_path, other_name
):
    unshare = ["unshare", "--net", *(["--uts"] if other_name else [])]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can make a network namespace, with the command unshare")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("network namespaces are not permitted here")
    rename = "import socket; socket.sethostname('elsewhere')\n" if other_name else ""
    with Receiver(RememberingSink(), run=RUN, token=TOKEN, budget=1 << 20) as receiver:
        path = tmp_path / "contact.json"
        contacts.write(path, contacts.Contact(RUN, TOKEN, (receiver.endpoint,), OPTIONS))
        ended = subprocess.run(
            [*unshare, sys.executable, "-c", rename + RANK, path],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert "needs LOOPBACK = False in the section of the analytics" in last
    if other_name:  # known at once
        assert "BridgeError: receiver 0 at 127.0.0.1" in last
        assert "cannot be reached from elsewhere" in last
