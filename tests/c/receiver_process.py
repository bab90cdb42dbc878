"""A receiver in a process of its own, to be killed or stopped; prints its endpoint, then counts.

Without a contract, it prints who says hello.
"""

import json
import sys
from dataclasses import asdict

from ips_components.model.contract import Contract
from ips_components.receiver.receiver import Receiver
from ips_components.receiver.sink import Sink


class Count(Sink):
    """A sink that holds nothing and tells on stdout what it got."""

    def chunk(self, array, chunk, value, nbytes):
        print(json.dumps([array, chunk]), flush=True)


class Door(Count):
    """A sink that tells who has come."""

    def hello(self, info):
        print("hello", flush=True)


def main():
    run, token, contract = sys.argv[1:4]
    options = json.loads(sys.argv[4])
    sink = Count() if contract else Door()
    with Receiver(sink, run=run, token=token, budget=1 << 26, ordinal=0, **options) as receiver:
        if contract:
            receiver.set_contract(Contract.from_bytes(bytes.fromhex(contract)))
        print(json.dumps(asdict(receiver.endpoint)), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
