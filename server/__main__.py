"""``python -m server`` is the ``llava-server`` command."""

from server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
