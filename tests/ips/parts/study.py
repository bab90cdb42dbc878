"""An executable of a pool that is one member of a parameter study: study.py NAME MEMBER MEMBERS."""

import sys

from pool_physics import studied

studied(*sys.argv[1:])
