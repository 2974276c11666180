"""``python -m server`` is the ``llava-server`` command."""

from __future__ import annotations

from server.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
