"""What another user of the same machine gets of a run; answers JSON with JSON.

Input: ``files`` to read, ``ports`` to speak HTTP to, ``unix`` addresses, ``scheduler`` address,
``pids`` and the ``uid`` of who runs.  Output: what went wrong for the owner, as a list of texts.
"""

import asyncio
import http.client
import json
import os
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

LIMIT = 5.0
PAGES = ("info/logs", "info/call-stack/x", "json/counts.json", "eventstream", "status", "metrics")


def main():
    asked = json.load(sys.stdin)
    got = []
    for path in asked["files"]:
        if readable(path):
            got.append(f"read {path}")
    for pid in asked["pids"]:
        for name in ("environ", "maps", "mem"):
            if readable(f"/proc/{pid}/{name}"):
                got.append(f"read {name} of process {pid}")
    for path in Path("/dev/shm").iterdir():
        if path.is_file() and path.stat().st_uid == asked["uid"] and readable(path):
            got.append(f"read {path}")
    for port in asked["ports"]:
        for page in PAGES:
            status = status_of(port, page)
            if status is not None and status != 404:
                got.append(f"status {status} of page {page} on port {port}")
    for name in asked["unix"]:
        if answers(name):
            got.append(f"an answer from {name}")
    place = asked["scheduler"].partition("://")[2]
    for protocol in ("tcp", "tls"):
        with tempfile.TemporaryDirectory() as directory:
            who = asyncio.run(submitted(f"{protocol}://{place}", directory))
        if who is not None:
            got.append(f"run code as user {who} by {protocol}")
    json.dump(got, sys.stdout)


def readable(path):
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


def status_of(port, page):
    try:
        opened = urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=LIMIT)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None  # it does not speak HTTP, or hung up
    with opened:
        return opened.status


def answers(name):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT)
        try:
            sock.connect("\0" + name[1:] if name.startswith("@") else name)
            sock.sendall(b"hello")
            return sock.recv(1) != b""
        except OSError:
            return False


async def submitted(address, directory):
    """The user as whom a task of ours runs, if it does; we have a certificate of our own."""
    from distributed import Client

    from ips_components.ips_compat import make_credentials

    own = make_credentials(Path(directory, address.partition(":")[0]))
    security = own.security() if address.startswith("tls") else None
    try:
        async with Client(address, asynchronous=True, timeout=LIMIT, security=security) as client:
            return await asyncio.wait_for(client.submit(os.getuid), LIMIT)
    except (OSError, TimeoutError):
        return None


main()
