"""A program for DEISA3: the derivative in time, of 4th order, averaged over everything.

Nothing but the import line differs from what one writes for DEISA itself.
"""

from ips_components.deisa import Deisa


def derivative(field, dt):
    """Central difference of 4th order; two steps are lost at either end."""
    near = field[3:-1] - field[1:-3]
    far = field[4:] - field[:-4]
    return (8.0 * near - far) / (12.0 * dt)


deisa = Deisa("scheduler.json", "config.yml")
client = deisa.get_client()

arrays = deisa.get_deisa_arrays()
gt = arrays["global_t"][...]
arrays.check_contract()

mean = derivative(gt, 1.0).mean()
mean = client.persist(mean, release=True)
arrays.validate_contract()

derived = client.compute(mean).result()
print(f"mean derivative: {derived:.15g}")
client.shutdown()
