"""A program that adds one to the number in its own state file, and reports what it saw of all."""

import sys
from pathlib import Path

own, *others = sys.argv[1:]
seen = {name: int(Path(name).read_text()) for name in (own, *others)}
Path(own).write_text(str(seen[own] + 1))
print(" ".join(f"{name}={seen[name]}" for name in sorted(seen)), flush=True)
with Path(f"seen_{own}").open("a") as file:
    file.write(" ".join(f"{name}={seen[name]}" for name in sorted(seen)) + "\n")
