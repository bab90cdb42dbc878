"""A figure that follows a run: what is seen of it while it is drawn."""

import threading
from types import SimpleNamespace

import numpy as np

from ips_components.live.figure import LiveFigure


def window(step):
    return SimpleNamespace(steps=range(step, step + 1), value=np.full((3, 4), float(step)))


def test_a_step_is_the_one_that_is_drawn_and_stays_after_the_stop(monkeypatch):
    followed = LiveFigure("t", "K", ("y", "x"))
    followed.watch = SimpleNamespace(stop=lambda: None)
    followed.draw(window(1))
    save, drawing, go_on = followed.figure.savefig, threading.Event(), threading.Event()

    def slow(*arguments, **options):
        drawing.set()
        assert go_on.wait(60)
        save(*arguments, **options)

    monkeypatch.setattr(followed.figure, "savefig", slow)
    thread = threading.Thread(target=followed.draw, args=[window(2)])
    thread.start()
    assert drawing.wait(60)
    assert followed.step == 1
    stopping = threading.Thread(target=followed.stop)
    stopping.start()
    go_on.set()
    stopping.join(60)
    followed.draw(window(3))
    assert followed.step == 2
    assert followed.figure.axes[0].get_title() == "step 2"
    thread.join(60)
