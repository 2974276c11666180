"""``python -m server`` is the ``llava-server`` command."""

# The C part of ``signal`` first: what the module imports beside it takes long enough for a Ctrl-C.
from _signal import SIG_DFL, SIGINT, signal  # type: ignore[import-not-found]

if __name__ == "__main__":
    # Until the command has its own handler, Ctrl-C ends it silently, as it does other programs.
    signal(SIGINT, SIG_DFL)
    from server.cli.main import main

    raise SystemExit(main())
