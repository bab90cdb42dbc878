"""Analyses for tests of the time loop."""


def series(arrays):
    """Sums over space of each array at each step, and over everything."""
    results = {f"{name}_series": array.sum(axis=1) for name, array in arrays.items()}
    return results | {f"{name}_total": array.sum() for name, array in arrays.items()}


def folded(arrays, run, size=3, stride=3):
    """Windows with carried state, which is lazy; what the function has itself is of no checkpoint.

    The launches end within windows.
    """
    import dask.array as da

    def update(state, window):
        mean, steps = state
        mean = 0.9 * mean + da.sin(window / 7).mean(axis=0)
        return (mean, steps + 1), (mean.sum(), window.sum())

    wave = arrays["field"]
    seen, rolling = [], run.rolling(wave, size, stride=stride)
    first = da.zeros(wave.source.spec.shape, chunks=5)
    for window in rolling.scan(update, (first, 0)):
        seen.append(float(window.value[0]))
        run.publish({"norm": window.value[0]}, step=window.steps[-1])
    mean, count = rolling.state
    return {"seen": seen, "mean": mean, "count": count}


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


def fails_at_five(arrays):
    """Sums of a field whose step 5 cannot be analysed."""

    def sums(block):
        if block.size and 5.0 in block:
            raise ArithmeticError("step 5 cannot be analysed")
        return block.sum(axis=1)

    return {"sums": arrays["field"].map_blocks(sums, dtype="f8", drop_axis=1)}
