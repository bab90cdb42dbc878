"""A driver and an initial state of the usual form: nothing in them knows of coupling."""

import numpy as np
import xarray as xr
from ipsframework import Component


class LoopDriver(Component):
    """Calls every port at every time of the loop."""

    def step(self, timestamp=0.0):
        services = self.services
        names = services.get_config_param("PORTS")["NAMES"].split()
        ports = [services.get_port(name) for name in names if name not in ("INIT", "DRIVER")]
        times = services.get_time_loop()
        for port in ports:
            services.call(port, "init", times[0])
        for time in times[1:]:
            services.update_time_stamp(time)
            for port in ports:
                services.call(port, "step", time)
        for port in ports:
            services.call(port, "finalize", times[-1])


class InitialState(Component):
    """Writes the state files."""

    def step(self, timestamp=0.0):
        np.savetxt("temperature.txt", np.zeros(32))
        np.savetxt("power.txt", np.zeros(32))
        xr.Dataset({"peak": ("time", [0.0])}).to_netcdf("monitor.nc")
        self.services.update_state()
