"""What coupling costs, measured beside what its alternatives cost: ``python -m benchmarks``."""
