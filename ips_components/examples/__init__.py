"""What the examples and their configs name: analyses and ensembles to run and to copy."""
