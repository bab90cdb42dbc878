"""Worker plugins for task pools of IPS on current Dask.

Give one to ``submit_tasks(..., dask_worker_plugin=...)``; `PluginStack` makes one of several::

    from ips_components.plugins import ContinuousArchive, CopyAtTeardown, PluginStack

    plugin = PluginStack([CopyAtTeardown("/tmp", cwd), ContinuousArchive("/tmp", cwd, interval=60)])
"""

from ips_components.plugins._archive import ContinuousArchive
from ips_components.plugins._copy import CopyAtTeardown
from ips_components.plugins._stack import PluginStack

__all__ = ["ContinuousArchive", "CopyAtTeardown", "PluginStack"]
