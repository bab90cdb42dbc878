"""The names of ipsframework that this package relies on, and the span of versions that has them.

Later versions rename their internal modules, so that classes are taken from the top of the
package and the few names that are not there are taken from the modules of those classes.
"""

import sys
from types import ModuleType
from typing import Any

import ipsframework
from ipsframework import (
    Component,
    ConfigurationManager,
    Framework,
    ResourceManager,
    ServicesProxy,
    TaskManager,
    TaskPool,
)

from ips_components.errors import UnsupportedVersion

__all__ = [
    "BlockedMessage",
    "Component",
    "ConfigurationManager",
    "Framework",
    "Message",
    "MethodResult",
    "ResourceManager",
    "RunningTask",
    "ServiceResponse",
    "ServicesProxy",
    "TaskManager",
    "TaskPool",
    "check_version",
    "framework_main",
    "ipsutil",
    "resource_list",
]

OLDEST, TOO_NEW = (0, 8, 1), (0, 9)


def _home(cls: type) -> ModuleType:
    return sys.modules[cls.__module__]


Message: Any = _home(Component).Message
MethodResult: Any = _home(Component).MethodResultMessage
ServiceResponse: Any = _home(Framework).ServiceResponseMessage
BlockedMessage: Any = _home(TaskManager).BlockedMessageException
RunningTask: Any = _home(ServicesProxy).RunningTask
resource_list: Any = _home(ResourceManager).getResourceList
framework_main: Any = _home(Framework).main
ipsutil: Any = _home(ServicesProxy).ipsutil


def check_version(version: str = ipsframework.__version__) -> None:
    """Refuse an ipsframework whose inner workings this adapter does not know.

    Raises
    ------
    UnsupportedVersion
        When *version* is outside the span ``>= 0.8.1, < 0.9``.
    """
    digits = []
    for part in version.partition("+")[0].split("."):
        if not part.isdigit():
            break
        digits.append(int(part))
    if not OLDEST <= tuple(digits) < TOO_NEW:
        raise UnsupportedVersion(
            f"ipsframework {version} is installed, but ips_components adapts versions >= 0.8.1 and "
            "< 0.9 only: pip install 'ipsframework>=0.8.1,<0.9'"
        )
