import math

import pytest

from ips_components.coordination.settings import RunSettings
from ips_components.model.default_chunks import MAX_CHUNK, default_parts, default_steps
from ips_components.model.layout import ChunkLayout
from ips_components.model.spec import ArraySpec, StepAxis

SMALL = ArraySpec("t", "f8", (64, 64), StepAxis(count=200))  # 32 KiB per step
LARGE = ArraySpec("t", "f8", (4096, 8192), StepAxis(count=200))  # 256 MiB per step


def settings(**options):
    return RunSettings("r1", "ab" * 32, "package.module:function", n_receivers=2, **options)


@pytest.mark.parametrize(
    ("spec", "options", "steps"),
    [
        (SMALL, {}, 12),
        (ArraySpec("t", "f8", (64, 64), StepAxis(count=2000)), {}, 32),
        (ArraySpec("t", "f8", (64, 64), StepAxis(count=31)), {}, 1),
        (ArraySpec("t", "f8", (2048, 1024), StepAxis(count=200)), {}, 4),
        (LARGE, {}, 1),
        (SMALL, {"chunk_bytes": 0}, 1),
        (SMALL, {"chunk_bytes": 80_000}, 4),
        (SMALL, {"step_seconds": 0.25}, 4),
        (SMALL, {"step_seconds": 0.25, "latency": 0.5}, 2),
        (SMALL, {"step_seconds": 60.0}, 1),
        (SMALL, {"policies": {"t": "drop"}}, 1),
        (SMALL, {"launches": {"steps": 10}}, 1),
        (SMALL, {"leave_out": True}, 1),
        (ArraySpec("t", "f8", (64, 64), StepAxis()), {}, 1),
        (ArraySpec("t", "f8", (64, 64), StepAxis(count=200, at_most=True)), {}, 1),
        (ArraySpec("t", "f8", (-1, 3), StepAxis(count=200), ragged=True), {}, 1),
        (ArraySpec("t", "f8", (), StepAxis(count=64)), {}, 4),
    ],
)
def test_steps_in_a_chunk(spec, options, steps):
    choice = settings(**options).chunk_steps(spec)
    assert choice.steps == steps and choice.reason
    layout = ChunkLayout.from_spec(spec, None, 2, choice.steps)
    assert layout.chunks[0][0] == steps


def test_an_analysis_that_follows_the_run_gets_single_steps():
    choice = settings().chunk_steps(SMALL, "the analysis follows the run")
    assert (choice.steps, choice.reason) == (1, "the analysis follows the run")


def test_chunks_that_are_given_stay():
    layout = ChunkLayout.from_spec(SMALL, {"time": 5}, 2, 12)
    assert layout.chunks == ((5,) * 40, (32, 32), (64,))


def test_large_steps_are_cut_in_space():
    layout = ChunkLayout.from_spec(LARGE, None, 3)
    rows = layout.chunks[1]
    assert len(rows) % 3 == 0 and max(rows) * 8192 * 8 <= MAX_CHUNK < 4096 // 3 * 8192 * 8
    assert default_parts(ArraySpec("t", "f8", (2, 1 << 25), StepAxis(count=1)), 1) == (2, 4)


@pytest.mark.parametrize("n_receivers", [1, 2, 3, 64])
@pytest.mark.parametrize(
    "shape",
    [
        (3, 2048, 2048),  # components first
        (1, 64, 2048, 2048),
        (64, 1 << 16, 6),  # just 64 MiB per worker, if they could share it evenly
        (7, 1024, 1024),  # fewer rows than workers
        (2048, 1 << 24),
    ],
)
def test_no_chunk_is_larger_than_the_most(shape, n_receivers):
    spec = ArraySpec("t", "f8", shape, StepAxis(count=600))
    choice = default_steps(spec, n_receivers, chunk_bytes=32 << 20)
    layout = ChunkLayout.from_spec(spec, None, n_receivers, choice.steps)
    largest = math.prod(max(sizes) for sizes in layout.chunks) * spec.itemsize
    assert largest <= (MAX_CHUNK if choice.steps == 1 else 32 << 20)
