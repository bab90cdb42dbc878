"""Written as if all points lay in one array, in the order of their ids."""


def diffusion(arrays):
    """Heat at every fifth step, and some points at all of them."""
    u = arrays["u"]
    return {"heat": u[::5].mean(axis=1), "probes": u[:, 10:400:40]}
