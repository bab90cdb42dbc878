"""A driver that lets another component follow the run, and that component."""

import json
import time
from pathlib import Path

from ipsframework import Component

from ips_components.ips.analytics import PROGRESS_TOPIC
from ips_components.ips.driver import Driver


class WatchedDriver(Driver):
    """Runs the watcher beside both sides."""

    def init(self, timestamp=0.0, **keywords):
        self._watcher = self.services.get_port("WATCHER")
        self.services.call(self._watcher, "init", timestamp)
        super().init(timestamp, **keywords)

    def step(self, timestamp=0.0, **keywords):
        call = self.services.call_nonblocking(self._watcher, "step", timestamp)
        super().step(timestamp, **keywords)
        self.services.wait_call(call)


class Watcher(Component):
    """Writes down what it hears until the run has ended."""

    def init(self, timestamp=0.0, **keywords):
        self.heard = []
        self.services.subscribe(PROGRESS_TOPIC, "hear")

    def hear(self, topic, event):
        self.heard.append({"heard": time.time(), **event.getBody()})

    def step(self, timestamp=0.0, **keywords):
        deadline = time.monotonic() + 60
        while not self.heard or self.heard[-1]["phase"] not in ("ended", "failed"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the run did not end; heard {self.heard[-1:]}")
            self.services.process_events()
            time.sleep(0.05)
        Path(self.services.sim_conf["SIM_ROOT"], "heard.json").write_text(json.dumps(self.heard))

    def finalize(self, timestamp=0.0, **keywords):
        pass
