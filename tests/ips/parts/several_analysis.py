"""Analyses for tests of several simulations."""


def both(arrays):
    """Sums over space of each array, and of their product."""
    hot, cold = arrays["hot"], arrays["cold"]
    return {
        "hot": hot.sum(axis=1),
        "cold": cold.sum(axis=1),
        "product": (hot * cold).sum(axis=1),
    }


def one_of_them(arrays):
    """Of the second simulation nothing is needed."""
    return {"hot": arrays["hot"].sum(axis=1)}


def early(arrays):
    """Fail before there is a contract."""
    raise ValueError("the analysis does not like these fields")


def sums(arrays):
    """Sums over space of every array."""
    return {name: array.sum(axis=1) for name, array in arrays.items()}


def totals(arrays, checkpoint=None):
    """Sum over all steps of each of two arrays, which goes on from where an earlier run was."""
    before = checkpoint or {"hot": 0.0, "cold": 0.0}
    sums = {name: before[name] + arrays[name].sum(axis=0) for name in ("hot", "cold")}
    return {**sums, "checkpoint": sums}


def last(arrays):
    """The last step of every array."""
    return {name: array[-1] for name, array in arrays.items()}
