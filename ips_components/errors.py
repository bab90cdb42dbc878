"""What can go wrong, as one small vocabulary.

Every message says which side broke what, what was expected, what was got, and the remedy.
"""


class IPSComponentsError(Exception):
    """Root of all errors that this package raises on purpose."""


class ConfigError(IPSComponentsError):
    """A parameter of the IPS config or platform file is missing, wrong or contradictory."""


class GeometryError(IPSComponentsError, ValueError):
    """Blocks, selections or chunks do not fit the array that they belong to."""


class ContractError(IPSComponentsError):
    """The analysis asks for something that the simulation does not offer, or the reverse."""


class ContactError(IPSComponentsError):
    """The contact file is missing, unreadable, unsafe or belongs to another run."""


class ProtocolError(IPSComponentsError):
    """A peer sent bytes that the wire protocol does not allow."""


class TlsError(ProtocolError):
    """The two sides of a connection that must be encrypted do not trust each other."""


class BridgeError(IPSComponentsError):
    """The bridge inside a simulation rank cannot go on."""


class DeadlineExceeded(BridgeError, TimeoutError):
    """An awaited peer did not answer within its deadline."""


class AnalyticsLost(BridgeError, ConnectionError):
    """The analytics side is gone and the policy says that the simulation must not go on alone."""


class RunStopped(BridgeError):
    """The analysis has what it wants, and has stopped the run or returned: no value will come."""


class SimulationLost(IPSComponentsError):
    """The simulation ended, or a rank died, before all contracted data were delivered."""


class RunFailed(IPSComponentsError):
    """A coupled run did not end well; the message is its first cause.

    Attributes
    ----------
    result : RunResult or None
        What the run left, where it was started with :func:`ips_components.run`.
    """

    def __init__(self, cause: str = "", result: object = None) -> None:
        super().__init__(cause)
        self.result = result


class ExternalTaskError(IPSComponentsError):
    """An external task will never get its data; names array, step and cause."""


class StepPassed(ExternalTaskError):
    """A step was put before the contract of an attached client had reached the ranks."""


class UnsupportedVersion(IPSComponentsError):
    """An installed package is outside the span of versions that this package supports."""


class AnalysisError(IPSComponentsError, ValueError):
    """An algorithm was given data or parameters that it cannot work with."""


class AnalysisFailed(IPSComponentsError):
    """The analysis raised an exception of a class that other processes do not know."""


class NotFittedError(AnalysisError, AttributeError):
    """A result of an estimator was asked for before any data were given to it."""


class RecordError(IPSComponentsError):
    """A run directory holds no readable run record, or the record breaks its schema."""


class SelectionError(ContractError, IndexError):
    """A selection lies outside an external array; names array, dimension and size."""
