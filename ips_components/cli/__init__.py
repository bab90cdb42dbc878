"""The command ``ips-components``; its subcommands are one module each."""

from ips_components.cli._main import MODULES, main

__all__ = ["MODULES", "main"]
