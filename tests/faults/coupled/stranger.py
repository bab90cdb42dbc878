"""What another user of the same machine gets of a run; answers JSON with JSON.

Input: ``files`` to read, ``ports`` to speak HTTP to, ``unix`` addresses, ``scheduler`` address,
the id of the ``run``, ``pids`` and the ``uid`` of who runs.  Output: what went wrong for the owner,
as a list of texts.
"""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ips_components.errors import ProtocolError
from ips_components.wire import framing
from ips_components.wire import messages as m

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
    with ThreadPoolExecutor(32) as pool:
        taken = pool.map(lambda port: taken_in(port, asked["run"]), asked["ports"])
        got += [
            f"taken in as a rank on port {p}"
            for p, t in zip(asked["ports"], taken, strict=True)
            if t
        ]
    # Dask waits for some servers without an end.
    asker = threading.Thread(target=identify, args=(asked["ports"], got), daemon=True)
    asker.start()
    asker.join(4 * LIMIT)
    place = asked["scheduler"].partition("://")[2]
    for protocol in ("tcp", "tls"):
        with tempfile.TemporaryDirectory() as directory:
            who = asyncio.run(submitted(f"{protocol}://{place}", directory))
        if who is not None:
            got.append(f"run code as user {who} by {protocol}")
    json.dump(got, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # also if a thread still waits


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


def taken_in(port, run):
    """Whether a receiver takes a rank that knows the run's name, and a token of its own."""
    greeting = m.Greeting(bytes(32), 1)
    hello = m.Hello(run, 0, 1, os.getpid(), 1, proof=bytes(32))
    heard = framing.Decoder()
    messages = []
    try:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
            sock.settimeout(LIMIT)
            sock.sendall(framing.pack(greeting))
            messages += heard.feed(sock.recv(1 << 16))
            sock.sendall(framing.pack(hello))
            while data := sock.recv(1 << 16):
                messages += heard.feed(data)
    except (OSError, ProtocolError):
        pass
    return any(not isinstance(each, m.Challenge | m.Refused) for each in messages)


def identify(ports, got):
    """Note the servers of Dask that say who they are: scheduler, workers or nannies."""
    from distributed.core import connect

    async def ask(protocol, port):
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            address = f"{protocol}://127.0.0.1:{port}"
            comm = await connect(address, timeout=LIMIT, **arguments[protocol])
            await comm.write({"op": "identity", "reply": True})
            got.append(f"an answer of Dask at {address}: {await comm.read()}")

    async def ask_all():
        await asyncio.gather(*(ask(each, port) for each in arguments for port in ports))

    with tempfile.TemporaryDirectory() as directory:
        arguments = {
            each: own_security(each, directory).get_connection_args("client")
            for each in ("tcp", "tls")
        }
        asyncio.run(ask_all())


def own_security(address, directory):
    """Certificates of our own, for an address with TLS."""
    from distributed.security import Security

    from ips_components.ips_compat import make_credentials

    own = make_credentials(Path(directory, address.partition(":")[0]))
    return own.security() if address.startswith("tls") else Security()


async def submitted(address, directory):
    """The user as whom a task of ours runs, if it does; we have a certificate of our own."""
    from distributed import Client

    security = own_security(address, directory) if address.startswith("tls") else None
    try:
        async with Client(address, asynchronous=True, timeout=LIMIT, security=security) as client:
            return await asyncio.wait_for(client.submit(os.getuid), LIMIT)
    except (OSError, TimeoutError):
        return None


main()
