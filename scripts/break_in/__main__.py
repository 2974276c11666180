"""Tries to get past keys, paths, addresses and HTTP of a server, and counts what was tried.

    python -m scripts.break_in              # every attempt
    python -m scripts.break_in --every 9    # one of nine, of each kind

The server is a real process with the demo model, two keys, an ``--image-root``, and names that an
attacker's name server answers. Prints a line for each kind. Exit code 1 if any attempt succeeds,
or if what is permitted fails: then the attempts beside it would have shown nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from scripts.break_in.access import keys, others
from scripts.break_in.addresses import addresses, image_root
from scripts.break_in.target import Attempts, Kind, target
from scripts.break_in.wire import injection, smuggling

KINDS: dict[str, Kind] = {
    "keys": keys,
    "what belongs to others": others,
    "--image-root": image_root,
    "addresses of pictures": addresses,
    "request smuggling": smuggling,
    "headers and logs": injection,
}


def break_in(folder: Path, every: int) -> list[Attempts]:
    """Tries all kinds against one server."""
    found = []
    with target(folder) as server:
        for name, kind in KINDS.items():
            attempts = Attempts(name, every)
            kind(server, attempts)
            found.append(attempts)
        server.check_alive()
    return found


def main() -> int:
    """Tries, prints, judges."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="one attempt of so many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = break_in(Path(folder), options.every)
    for attempts in found:
        print(f"{attempts.kind:<24}{attempts.tried:>7,} tried{len(attempts.broken):>4} succeeded")
        print(*(f"  {each}" for each in attempts.broken[:10]), sep="\n", end="")
    print(f"{sum(each.tried for each in found):,} in all")
    return 1 if any(each.broken for each in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
