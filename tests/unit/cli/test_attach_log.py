"""What ``ips-components attach`` does not say."""

import subprocess
import sys


def test_the_end_of_a_run_is_no_error_in_the_log_of_dask():
    code = (
        "import logging; from ips_components.cli import attach; attach._silence_dask(); "
        "print(any(logging.getLogger(name).isEnabledFor(logging.ERROR) "
        "for name in ('distributed', 'distributed.client', 'distributed.core')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
