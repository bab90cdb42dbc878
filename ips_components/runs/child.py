"""``python -m ips_components.runs.child``: ips.py, ended when the process that started it ends.

The first argument is a descriptor that is readable once the other end of its pipe is closed, the
second a directory to remove then; the others are those of ``ips.py``.
"""

import os
import shutil
import signal
import sys
import threading


def main() -> None:
    """Run ``ips.py`` in this process."""
    parent, scratch = int(sys.argv.pop(1)), sys.argv.pop(1)
    os.set_inheritable(parent, False)
    threading.Thread(target=_end_with, args=(parent, scratch), daemon=True).start()

    from ipsframework.ips import main as ips

    sys.argv[0] = "ips.py"
    sys.exit(ips())


def _end_with(parent: int, scratch: str) -> None:
    os.read(parent, 1)  # nothing is ever written: it returns when the other end is closed
    shutil.rmtree(scratch, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
