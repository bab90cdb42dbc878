"""A live page about one run, served by the scheduler process while the run is on.

Dask's own HTTP server listens on every interface of the scheduler's node and does not authenticate
its clients. This page therefore has a server of its own, on the loopback interface unless set
otherwise, and answers only requests with the token in their address. It uses the event loop and the
HTTP library (Tornado) that the scheduler runs on already, costs nothing while no browser is
connected, and is off until it is opened.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from ips_components.coordination import pace
from ips_components.coordination.dashboard import address_of
from ips_components.coordination.messages import PICTURE_TOPIC
from ips_components.coordination.pictures import Pictures, drawable
from ips_components.errors import ConfigError

logger = logging.getLogger(__name__)

#: Bars in the figure of the ranks' waiting; more ranks share bars.
MAX_BARS = 256
#: Points of the curve of the throughput, from the first step to the newest one.
MAX_POINTS = 120
#: Newest launches and faults on the page.
MAX_LAUNCHES = 100
MAX_FAULTS = 100
#: Arrays of which one can be looked at.
MAX_ARRAYS = 1000
#: Shortest token that is accepted.
MIN_TOKEN = 16


class LivePage:
    """An open page.

    Attributes
    ----------
    url : str
        Address with the token in it, which gives access.
    pictures : Pictures
        Of the arrays at which browsers look.
    """

    def __init__(self, server: HTTPServer, url: str, pictures: Pictures) -> None:
        self._server = server
        self.url, self.pictures = url, pictures

    async def close(self) -> None:
        """Stop listening and hang up on every browser."""
        self._server.stop()
        await self._server.close_all_connections()


def open_live_page(
    scheduler: Any,
    coordinator: Any,
    run: str,
    token: str,
    host: str = "127.0.0.1",
    port: int = 0,
) -> LivePage:
    """Open the live page of a run.  To be called on the scheduler's event loop.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    coordinator : RunCoordinator
        Of that scheduler.
    run : str
        The run id.
    token : str
        Secret part of the address, 16 letters, digits, ``-`` or ``_`` at least. Make one with
        ``secrets.token_urlsafe()``; the token of the run itself is for the ranks, do not use it.
    host : str
        Address to listen on.
    port : int
        0 for any free one.

    Returns
    -------
    LivePage

    Raises
    ------
    ConfigError
        If the token is too weak for an address, or nothing can listen at `host` and `port`.
    """
    if len(token) < MIN_TOKEN or not token.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(
            f"the token of the live page must be {MIN_TOKEN} or more letters, digits, '-' or '_'"
        )
    pictures = Pictures(lambda name: scheduler.log_event(PICTURE_TOPIC + run, {"array": name}))
    arguments = {
        "view": lambda array: view(scheduler, coordinator, run, pictures, array),
        "token": token,
    }
    application = Application(
        [(r"/([^/]+)/", _Page, arguments), (r"/([^/]+)/state", _State, arguments)],
        log_function=_log_request,
    )
    server = HTTPServer(application, max_body_size=0)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"the live page cannot listen on {host}:{port}: {error}; give another port, or 0 for "
            "any free one"
        ) from error
    listener.setblocking(False)
    server.add_sockets([listener])
    bound = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    page = LivePage(server, f"http://{shown}:{bound}/{token}/", pictures)
    logger.info("Live page of run %s: http://%s:%d/ (token in the contact file)", run, shown, bound)
    return page


def view(
    scheduler: Any, coordinator: Any, run: str, pictures: Pictures, array: str = ""
) -> dict[str, Any]:
    """Everything that the page shows, as plain values of bounded size.

    With an array, a picture of its newest step, as soon as there is one.
    """
    live = coordinator.runs[run]
    may_attach = bool(live.settings.get("attach", True))
    offered = drawable(live.settings.get("arrays") or live.state.described or [])
    state = live.state
    progress = coordinator.progress(run)
    samples = progress.pop("workers")
    return {
        **progress,
        "n_ranks": state.n_ranks,
        "lost_ranks": len(state.lost_ranks),
        "position": max(progress["position"], progress["steps"]),
        "throughput": _throughput(state.steps),
        "waiting": _bars(state.waited),
        "workers": [
            {
                **_pick(endpoint, "receiver", "address", "hostname", "memory_limit"),
                **_pick(samples.get(endpoint["address"], {}), "rss", "held", "credits"),
                "alive": endpoint["address"] in live.workers,
            }
            for endpoint in state.endpoints.values()
        ],
        "launches": [
            _pick(launch.to_json(), "launch", "first_step", "time", "began", "ended", "ok")
            for launch in live.launches[-MAX_LAUNCHES:]
        ],
        "contract": live.contract.table() if live.contract is not None else [],
        "fault_log": [fault.to_json() for fault in state.faults[-MAX_FAULTS:]],
        "dashboard": address_of(scheduler),
        "attach": may_attach,
        "offered": offered[:MAX_ARRAYS],
        "picture": pictures.look(array, goes_on=live.may_put)
        if may_attach and any(each["name"] == array for each in offered)
        else None,
    }


def _pick(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values.get(name) for name in names}


def _throughput(steps: Mapping[int, Any]) -> list[pace.Point]:
    """Bytes delivered per second, from the first step to the newest one."""
    return pace.curve(
        sorted(
            (step.complete, step.delivered or 0)
            for step in steps.values()
            if step.complete is not None
        ),
        MAX_POINTS,
    )


def _bars(waits: Sequence[float]) -> dict[str, Any]:
    """At most `MAX_BARS` bars, each the longest waiting of as many ranks."""
    ranks = -(-len(waits) // MAX_BARS) or 1
    return {
        "ranks_per_bar": ranks,
        "seconds": [max(waits[i : i + ranks]) for i in range(0, len(waits), ranks)],
    }


class _Handler(RequestHandler):
    """Checks the token; without it, the answer does not even say that there is a run."""

    def initialize(self, view: Any, token: str) -> None:
        self.view = view
        self.token = token

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "default-src 'none'")

    def knows_token(self, token: str) -> bool:
        if hmac.compare_digest(token.encode(), self.token.encode()):
            return True
        self.send_error(404)
        return False


class _Page(_Handler):
    def get(self, token: str) -> None:
        if not self.knows_token(token):
            return
        nonce = secrets.token_urlsafe(12)
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
            f"form-action 'none'; frame-ancestors 'none'; "
            f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'",
        )
        self.write(_page().replace("NONCE", nonce))


class _State(_Handler):
    def get(self, token: str) -> None:
        if not self.knows_token(token):
            return
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps(self.view(self.get_query_argument("array", "")), default=str))


@cache
def _page() -> str:
    return (files("ips_components.coordination") / "live.html").read_text(encoding="utf-8")


def _log_request(handler: RequestHandler) -> None:
    """Never the path: the token is in it."""
    logger.debug("Live page: %s %s", handler.request.method, handler.get_status())
