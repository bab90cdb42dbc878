"""An analysis for tests of attached clients."""


def early(arrays):
    """Needs the first steps only."""
    return {"early": arrays["plate"][:3].sum(axis=(1, 2))}
