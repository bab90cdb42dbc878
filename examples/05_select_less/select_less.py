"""An analysis that asks for a corner of the field at some of its steps."""


def corner(arrays, every=10, cells=8):
    """Mean over the corner at every n-th step, and the corner itself at the last of them."""
    temperature = arrays["temperature"]
    part = temperature[::every, :cells, :cells]
    return {"mean": part.mean(axis=(1, 2)), "last": part[-1]}
