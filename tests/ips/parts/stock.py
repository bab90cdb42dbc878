"""Components that know nothing of ips_components, as a user has them."""

import threading
from pathlib import Path

from ipsframework import Component


class Stock(Component):
    """A driver whose step is named in the config."""

    def step(self, timestamp=0.0, **keywords):
        return getattr(self, self.STEP)()

    def call_worker(self):
        self.services.call(self.services.get_port("WORKER"), "step", 0.0)

    def return_lock(self):
        return threading.Lock()

    def run_sub_workflow(self):
        _, _, driver = self.services.create_sub_workflow(
            "sub", self.SUB_CONFIG, input_dir=self.SUB_INPUT
        )
        for method in ("init", "step", "finalize"):
            self.services.call(driver, method, 0.0)

    def run_sub_workflow_and_cope(self):
        try:
            self.run_sub_workflow()
        except Exception as error:
            Path(self.services.sim_conf["SIM_ROOT"], "coped").write_text(str(error))
