"""A program for DEISA3: incremental principal components of a field, one time step per batch.

Published on a slide of the authors of DEISA; only its two import lines differ.
"""

from ips_components.algorithms import InSituIncrementalPCA
from ips_components.deisa import Deisa

scheduler_info, config_file = "scheduler.json", "config.yml"

# Initialise the Deisa
Deisa = Deisa(scheduler_info, config_file)
client = Deisa.get_client()
# Get data descriptor as a list of Deisa arrays object
arrays = Deisa.get_deisa_arrays()
# Filter data
gt = arrays["global_t"][...]
arrays.validate_contract()
ipca = InSituIncrementalPCA(n_components=2, copy=False, svd_solver="randomized")
ipca = ipca.fit(gt, ["t", "X", "Y"], ["X"], ["Y"])
# Submit the task graph to the scheduler
explained_variance, singular_values = client.persist(
    [ipca.explained_variance_, ipca.singular_values_]
)

print("explained variance:", *explained_variance.compute())
print("singular values:", *singular_values.compute())
client.shutdown()
