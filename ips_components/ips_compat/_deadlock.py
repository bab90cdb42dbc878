"""Tasks that wait for cores that no component can give back any more.

IPS lets a component wait in ``launch_task`` until cores are free. Cores become free when the
component that holds them waits for its task. When all active components wait, one of them for
cores, that will never happen.
"""

from collections.abc import Collection
from typing import Any


def find(framework: Any, working: Collection[str]) -> tuple[Any, str] | None:
    """Look for a deadlock.

    Parameters
    ----------
    framework
        The framework, with the messages that it could not answer yet.
    working
        Names of the components that execute a call now.

    Returns
    -------
    message, story
        The request for cores that can never be met, and why; None when there is none.
    """
    waiting: dict[str, Any] = {}
    for message in framework.blocked_messages:
        method = getattr(message, "target_method", "")
        if method == "init_task" or (method == "wait_call" and message.args[1]):
            waiting[str(message.sender_id)] = message
    requests = [each for each in waiting.values() if each.target_method == "init_task"]
    if not requests or any(name not in waiting for name in working):
        return None
    request = requests[0]
    resources = framework.resource_manager
    held = ", ".join(
        f"{owner.class_name} holds {cores}" for owner, _, cores in resources.active_tasks.values()
    )
    return request, (
        f"component {request.sender_id.class_name} asks for {request.args[0].nproc} processes, but "
        f"of {resources.total_cores} in all {held or 'none is free'}, and every component that "
        "could give them back waits, too: wait for a task before launching the next one, launch "
        "with block=False, or give the platform more CORES_PER_NODE"
    )
