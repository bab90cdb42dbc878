"""The contract: which cells of which arrays the analysis needs, agreed before step zero.

People read it as JSON (`Contract.to_json`) or as a table (`Contract.table`); ranks get a compact
binary form (`Contract.to_bytes`), described in `ips_components.model._codec`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ips_components.errors import ContractError, GeometryError
from ips_components.model._binary import Reader, Writer
from ips_components.model._codec import (
    array_from_dict,
    array_to_dict,
    read_array,
    read_unneeded,
    write_array,
    write_unneeded,
)
from ips_components.model.array_contract import ArrayContract, Policy
from ips_components.model.placement import Placement
from ips_components.model.spec import ArraySpec

__all__ = ["FORMAT", "MAGIC", "VERSION", "ArrayContract", "Contract", "Policy"]

MAGIC = b"IPSCTRT1"
FORMAT = "ips-components-contract"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Contract:
    """All arrays of one run that the analysis needs.

    Parameters
    ----------
    run
        Run id.
    arrays
        In a fixed order: messages name an array by its position here.
    unneeded
        Arrays that are described and that the analysis does not need: what ranks have to know to
        compute blocks of them in place, and to account for them. Messages name them by the
        positions behind `arrays`. No part of what was agreed: the digest is without them.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (6, 8), StepAxis(count=10))
    >>> contract = Contract("r1", (ArrayContract.agree(spec, run="r1", receivers=(0, 1)),))
    >>> Contract.from_bytes(contract.to_bytes()) == contract
    True
    >>> Contract.from_json(contract.to_json()) == contract
    True
    """

    run: str
    arrays: tuple[ArrayContract, ...]
    unneeded: tuple[ArraySpec, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        names = [a.spec.name for a in self.arrays]
        if len(set(names)) != len(names):
            raise ContractError(f"run {self.run!r}: arrays {names} have a name twice")

    def __getitem__(self, name: str) -> ArrayContract:
        for array in self.arrays:
            if array.spec.name == name:
                return array
        raise KeyError(name)

    def ordinal(self, name: str) -> int | None:
        """Return the position of an array; None when nothing of it is needed."""
        for i, array in enumerate(self.arrays):
            if array.spec.name == name:
                return i
        return None

    def with_placements(self, placements: Mapping[str, Placement]) -> Contract:
        """Return the same agreement with other receivers; its `digest` does not change."""
        return Contract(
            self.run,
            tuple(a.with_placement(placements.get(a.spec.name, a.placement)) for a in self.arrays),
            self.unneeded,
        )

    def digest(self) -> str:
        """Return the SHA-256 (hex) of what was agreed; placements may change and do not count."""
        from hashlib import sha256  # 3 ms that no rank has to pay at import

        return sha256(self._encode(placements=False)).hexdigest()

    def table(self) -> list[dict[str, Any]]:
        """Return one row per array: what is sent of it, in words and numbers."""
        return [array.row() for array in self.arrays]

    def to_bytes(self) -> bytes:
        """Return the binary form that ranks get (see `ips_components.model._codec`)."""
        return self._encode(placements=True)

    def _encode(self, *, placements: bool) -> bytes:
        out = Writer(MAGIC)
        out.string(self.run)
        out.ints(len(self.arrays))
        for array in self.arrays:
            write_array(out, array, placements=placements)
        if placements and self.unneeded:  # a reader that does not know them ends before
            write_unneeded(out, self.unneeded)
        return out.finish()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Contract:
        """Read the binary form.

        Raises
        ------
        ContractError
            When the bytes are no contract, are cut short, or contradict each other.
        """
        reader = Reader(data, MAGIC)
        try:
            run = reader.string()
            arrays = tuple(read_array(reader) for _ in range(reader.length(8)))
            unneeded = () if reader.at_end else read_unneeded(reader)
        except (GeometryError, ValueError, TypeError, KeyError) as error:
            raise ContractError(f"the bytes are not a valid contract: {error}") from error
        return cls(run, arrays, unneeded)

    def to_json(self) -> str:
        """Return the form for people and files."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "run": self.run,
            "digest": self.digest(),
            "arrays": [array_to_dict(array) for array in self.arrays],
        }
        return json.dumps(document, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Contract:
        """Read the form for people, and check its digest."""
        try:
            document = json.loads(text)
            if document["format"] != FORMAT or document["version"] != VERSION:
                raise ContractError(
                    f"expected {FORMAT} version {VERSION}, "
                    f"got {document['format']} version {document['version']}"
                )
            contract = cls(document["run"], tuple(map(array_from_dict, document["arrays"])))
        except (GeometryError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ContractError(f"the text is not a valid contract: {error!r}") from error
        if contract.digest() != document.get("digest", contract.digest()):
            raise ContractError("the contract was changed after it was signed: the digest differs")
        return contract
