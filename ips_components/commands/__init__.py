"""Subcommands of ``ips-components``, one module each; see :mod:`ips_components.cli`."""
