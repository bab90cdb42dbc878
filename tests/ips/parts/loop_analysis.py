"""Analyses for tests of the time loop."""


def series(arrays):
    """Sums over space of each array at each step, and over everything."""
    results = {f"{name}_series": array.sum(axis=1) for name, array in arrays.items()}
    return results | {f"{name}_total": array.sum() for name, array in arrays.items()}


def windows(arrays, run):
    """Publish the mean of each step as soon as it is known; their sum is the result."""
    total = 0.0
    for window in run.rolling(arrays["field"], 1).map(lambda u: u.mean()):
        run.publish({"mean": window.value}, step=window.steps[0])
        total += float(window.value)
    return {"total": total}


def over_time(arrays):
    """Statistics over the steps that come, single steps, and results per step."""
    u = arrays["field"]
    return {
        "mean": u.mean(axis=0),
        "spread": u.std(axis=0),
        "largest": u.max(),
        "last": u[-1],
        "curve": u.mean(axis=1),
        "some": u[::5, :4],
    }
