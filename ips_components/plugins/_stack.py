"""Several worker plugins in the place of one."""

import inspect
import logging
from collections.abc import Iterable
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

logger = logging.getLogger(__name__)


class PluginStack(WorkerPlugin):  # type: ignore[misc]
    """Makes one worker plugin of several: IPS takes one for each pool.

    They are set up in order and torn down in reverse order. When one cannot be set up, those before
    it are torn down, and the worker does not start. When one fails in its teardown, the others
    are torn down all the same.

    Parameters
    ----------
    plugins
        Worker plugins, with ``setup``, ``teardown`` and ``transition`` as they like; the first two
        may be coroutines.
    name
        Of the plugin in Dask; by default made of theirs.
    """

    def __init__(self, plugins: Iterable[Any], name: str | None = None) -> None:
        self.plugins = list(plugins)
        names = [getattr(each, "name", None) or type(each).__name__ for each in self.plugins]
        self.name = name or "+".join(names) or "empty-stack"
        self._running: list[Any] = []

    async def setup(self, worker: Any) -> None:
        """Set up all plugins, or none."""
        for plugin in self.plugins:
            try:
                await _call(plugin, "setup", worker)
            except BaseException as error:
                error.add_note(f"worker plugin {type(plugin).__name__} could not be set up")
                await self._tear_down(worker)
                raise
            self._running.append(plugin)

    async def teardown(self, worker: Any) -> None:
        """Tear down all plugins; the first error is raised after the last of them."""
        error = await self._tear_down(worker)
        if error is not None:
            raise error

    def transition(self, key: Any, start: str, finish: str, **keywords: Any) -> None:
        """Inform plugins that follow the states of tasks."""
        for plugin in self._running:
            if hasattr(plugin, "transition"):
                plugin.transition(key, start, finish, **keywords)

    async def _tear_down(self, worker: Any) -> Exception | None:
        first = None
        while self._running:
            plugin = self._running.pop()
            try:
                await _call(plugin, "teardown", worker)
            except Exception as error:
                logger.exception("Worker plugin %s failed at its end", type(plugin).__name__)
                first = first or error
        return first


async def _call(plugin: Any, method: str, worker: Any) -> None:
    function = getattr(plugin, method, None)
    if function is not None:
        result = function(worker)
        if inspect.isawaitable(result):
            await result
