"""Former name of `ips_components.ips_compat.container`."""

import warnings

from ips_components.ips_compat.container import PACKAGES, check_versions, mismatches

__all__ = ["PACKAGES", "check_versions", "mismatches"]

warnings.warn(
    "ips_components.container has moved: import ips_components.ips_compat.container",
    DeprecationWarning,
    stacklevel=2,
)
