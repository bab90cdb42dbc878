"""The name that configs use; see `ips_components.ips.analytics`."""

from ips_components.ips.analytics import PROGRESS_TOPIC, Analytics

__all__ = ["PROGRESS_TOPIC", "Analytics"]
