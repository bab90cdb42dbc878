"""Dask's dashboard under an address that holds a secret, on the loopback interface.

Dask's own server for it has no authentication, and any user of the node could connect to it. It is
therefore off, and the dashboard has a server of its own here, in the scheduler's process. It costs
nothing until it is opened: only then bokeh is imported, in a thread beside the event loop.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
from html import escape
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from distributed import Client, SchedulerPlugin
from tornado.httpserver import HTTPServer
from tornado.routing import Router
from tornado.web import Application, RequestHandler

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
#: Pages of the dashboard that bokeh does not draw, and what they need.
_MODULES = (
    "distributed.http.scheduler.info",
    "distributed.http.scheduler.json",
    "distributed.http.statics",
)
_WAITING = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2">'
    "<title>Dask dashboard</title><p>The dashboard is being prepared ...</p>"
)


class Dashboard(SchedulerPlugin):
    """The server of a scheduler's dashboard; to be made on its event loop.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    token : str
        Secret part of the address.

    Attributes
    ----------
    url : str
        Address with the token in it, which gives access.
    """

    name = "ips-components-dashboard"

    def __init__(self, scheduler: Any, token: str) -> None:
        self._scheduler = scheduler
        self._token = token
        self._ready: Any = None
        self._problem = ""
        self._loading: asyncio.Task[None] | None = None
        self._waiting = Application(
            [(r".*", _Waiting, {"problem": lambda: self._problem})], log_function=_log_request
        )
        self._nothing = Application([], log_function=_log_request)
        self._server = HTTPServer(_TokenRouter(self))
        listener = socket.create_server((LOOPBACK, 0))
        listener.setblocking(False)
        self._server.add_sockets([listener])
        self.url = f"http://{LOOPBACK}:{listener.getsockname()[1]}/{token}/status"

    async def close(self) -> None:
        """Called by the scheduler when it ends."""
        self._server.stop()
        if self._loading is not None:
            self._loading.cancel()
        for application in getattr(self._ready, "applications", ()):
            application.stop()
        await self._server.close_all_connections()

    def application_for(self, path: str) -> Any:
        """Return the handler of a path."""
        first = path.strip("/").partition("/")[0]
        if not hmac.compare_digest(first.encode(), self._token.encode()):
            return self._nothing
        if self._ready is not None:
            return self._ready
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())
        return self._waiting

    async def _load(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            dask = await loop.run_in_executor(
                None, import_module, "distributed.dashboard.scheduler"
            )
            from distributed.http.routing import RoutingApplication
            from distributed.http.utils import get_handlers

            handlers = get_handlers(
                server=self._scheduler, modules=list(_MODULES), prefix=self._token
            )
            application: Any = RoutingApplication(  # type: ignore[no-untyped-call]
                handlers, log_function=_log_request
            )
            dask.connect(application, self._server, self._scheduler, prefix=self._token)
            self._ready = application
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"
            logger.warning("There is no dashboard: %s", self._problem)


class _TokenRouter(Router):
    """Answers as an empty server to requests without the token."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard

    def find_handler(self, request: Any, **kwargs: Any) -> Any:
        return self._dashboard.application_for(request.path).find_handler(request, **kwargs)


class _Waiting(RequestHandler):
    """Answers until the dashboard is there."""

    def initialize(self, problem: Any) -> None:
        self._problem = problem

    def get(self) -> None:
        if problem := self._problem():
            self.set_status(503)
            self.write(f"<!doctype html><p>There is no dashboard: {escape(problem)}</p>")
            return
        self.set_header("Cache-Control", "no-store")
        self.write(_WAITING)


def open_dashboard(client: Client) -> str:
    """Serve the dashboard of a client's scheduler.

    Returns
    -------
    str
        Its address, with a token in it that gives access; empty where bokeh is not installed.
    """
    token = secrets.token_urlsafe(24)
    return str(client.run_on_scheduler(_open, token=token))  # type: ignore[no-untyped-call]


def _open(dask_scheduler: Any, token: str) -> str:
    if find_spec("bokeh") is None:
        return ""
    known = dask_scheduler.plugins.get(Dashboard.name)
    if known is None:
        known = Dashboard(dask_scheduler, token)
        dask_scheduler.add_plugin(known, name=Dashboard.name)
    return str(known.url)


def address_of(scheduler: Any) -> str | None:
    """Address of the dashboard that a scheduler serves; None without one."""
    known = scheduler.plugins.get(Dashboard.name)
    return None if known is None else str(known.url)


def _log_request(handler: RequestHandler) -> None:
    """Never the path: the token is in it."""
    logger.debug("Dashboard: %s %s", handler.request.method, handler.get_status())
