"""The former place of `ips_components.examples.heat2d`."""

import warnings

from ips_components.examples.heat2d import *  # noqa: F403

warnings.warn(
    "ips_components.analyses has moved: name ips_components.examples.heat2d in the config",
    DeprecationWarning,
    stacklevel=2,
)
