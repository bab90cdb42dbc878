"""The IPS components and their helpers.

Configs name `ips_components.driver`, `.simulation`, `.analytics` and `.ensemble`. Nothing here
imports Dask at module level: IPS imports a component's module before it forks.
"""
