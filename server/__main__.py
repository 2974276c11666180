"""``python -m server`` is the ``llava-server`` command."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Until the command has its own handler, Ctrl-C ends it silently, as it does other programs.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from server.cli.main import main

    raise SystemExit(main())
