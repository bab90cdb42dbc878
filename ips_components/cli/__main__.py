"""``python -m ips_components.cli``."""

import sys

from ips_components.cli import main

sys.exit(main())
