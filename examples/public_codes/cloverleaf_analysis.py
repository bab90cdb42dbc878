"""What CloverLeaf's `field_summary` prints of the whole domain, per volume and at every step."""


def summary(arrays):
    """Mass and energies; velocities are at the vertices, all else is in the cells."""
    density, energy = arrays["density"], arrays["energy"]
    squared = arrays["xvel"] ** 2 + arrays["yvel"] ** 2
    squared = (squared[:, :-1] + squared[:, 1:]) / 2  # from the vertices to the cells
    squared = (squared[:, :, :-1] + squared[:, :, 1:]) / 2
    space = (1, 2)
    return {
        "elapsed": arrays["time"],
        "mass": density.mean(axis=space),
        "internal": (density * energy).mean(axis=space),
        "kinetic": (density * squared).mean(axis=space) / 2,
        "last_density": density[-1],
        "last_x_vel": arrays["xvel"][-1],
    }
