"""Imported in the process from which workers are forked: reads the libraries that they need."""

import gc
import os
from contextlib import suppress
from importlib import import_module

for _name in os.environ["IPS_COMPONENTS_WORKER_LIBRARIES"].split(","):
    with suppress(Exception):  # what cannot be read is left to the workers, which say why
        import_module(_name)
gc.collect()
gc.freeze()  # a collection in a worker would otherwise copy all pages that it shares
