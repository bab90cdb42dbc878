"""A driver like those of ips-wrappers: it knows ports and times, and nothing of coupling."""

import os

from ipsframework import Component
from killing import kill

from ips_components import ips_compat

ips_compat.install()


class GenericDriver(Component):
    """Calls ``init`` of every port, ``step`` of each for every time, ``finalize`` of each.

    ``CALL`` in its section says how: ``call``, ``nonblocking`` (one after the other) or
    ``together`` (the steps of all ports at once). ``SKIP`` names calls that it forgets, ``RAISE`` a
    time at which it fails itself, ``EXIT`` one at which its process ends, ``KILL = WORD:TIME`` whom
    it kills before the steps of a time.
    """

    def init(self, timestamp=0.0):
        pass

    def step(self, timestamp=0.0):
        services = self.services
        names = services.get_config_param("PORTS")["NAMES"].split()
        self.skip = getattr(self, "SKIP", "").split()
        self.how = getattr(self, "CALL", "call")
        ports = {n: services.get_port(n) for n in names if n not in ("DRIVER", "INIT")}
        times = services.get_time_loop()
        mode = services.get_config_param("SIMULATION_MODE")
        for name, port in ports.items():
            self.do(name, port, "restart" if mode == "RESTART" else "init", times[0])
        for t in times[1:]:
            services.update_time_stamp(t)
            if t == float(getattr(self, "RAISE", -1)):
                raise RuntimeError(f"the driver gives up at {t}")
            if t == float(getattr(self, "EXIT", -1)):
                os._exit(7)
            word, _, when = getattr(self, "KILL", "").rpartition(":")
            if word and t == float(when):
                kill(word)
            if self.how == "together":
                calls = [services.call_nonblocking(p, "step", t) for p in ports.values()]
                services.wait_call_list(calls)
            else:
                for name, port in ports.items():
                    self.do(name, port, "step", t)
            if "CHECKPOINT" in services.sim_conf:
                services.checkpoint_components(list(ports.values()), t)
        for name, port in ports.items():
            self.do(name, port, "finalize", times[-1])

    def do(self, name, port, method, t):
        if f"{name}.{method}" in self.skip:
            return
        if self.how == "call":
            self.services.call(port, method, t)
        else:
            self.services.wait_call(self.services.call_nonblocking(port, method, t), block=True)

    def finalize(self, timestamp=0.0):
        pass


class StateInit(Component):
    """Puts the first state where IPS keeps it."""

    def init(self, timestamp=0.0):
        self.services.stage_input_files(self.INPUT_FILES)
        self.services.update_state()

    def step(self, timestamp=0.0):
        pass

    def finalize(self, timestamp=0.0):
        pass


class OwnPhysics(Component):
    """A physics component that has never heard of coupling: it launches its own task."""

    def init(self, timestamp=0.0):
        pass

    def step(self, timestamp=0.0):
        every = int(getattr(self, "EVERY", 1))
        if int(float(timestamp)) % every:
            return
        cwd = self.services.get_working_dir()
        for _ in range(int(getattr(self, "TRIES", 1))):
            task = self.services.launch_task(self.NPROC, cwd, self.PROGRAM, *self.OPTIONS.split(),
                                             logfile="own.log")  # fmt: skip
            if self.services.wait_task(task) == 0:
                return
        raise RuntimeError("the task failed")

    def finalize(self, timestamp=0.0):
        pass


class Growing(Component):
    """A component whose code has another number of ranks at each time."""

    def init(self, timestamp=0.0):
        pass

    def step(self, timestamp=0.0):
        ranks = int(self.RANKS.split()[int(timestamp) - 1])
        cwd = self.services.get_working_dir()
        task = self.services.launch_task(ranks, cwd, self.PROGRAM, *self.OPTIONS.split(),
                                         logfile="own.log")  # fmt: skip
        if self.services.wait_task(task) != 0:
            raise RuntimeError("the task failed")

    def finalize(self, timestamp=0.0):
        pass


class Nesting(Component):
    """A component that calls another one from its own methods, its ``step`` twice at each time."""

    def init(self, timestamp=0.0):
        self.inner = self.services.get_port(self.INNER)
        self.services.call(self.inner, "init", timestamp)

    def step(self, timestamp=0.0):
        for _ in range(2):
            self.services.wait_call(self.services.call_nonblocking(self.inner, "step", timestamp))

    def finalize(self, timestamp=0.0):
        self.services.call(self.inner, "finalize", timestamp)
