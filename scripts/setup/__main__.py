"""Make .venv and everything in it: ``python3 -m scripts.setup [--backend cuda] [--dev]``.

Standard library only, and this file alone must be readable by older Pythons too, so that they
can say what is needed.
"""

import os
import shutil
import sys
from typing import Optional

OLDEST, NEWEST = (3, 10), (3, 13)


def supported(version: "tuple[object, ...]") -> bool:
    """Whether llava-server runs on this version of Python."""
    return OLDEST <= version[:2] <= NEWEST


def find_python() -> Optional[str]:  # noqa: UP045
    """A supported Python on the PATH, the newest first."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        path = shutil.which("python3.{}".format(minor))  # noqa: UP032
        # pyenv's shims exist for versions that are not switched on; only a run shows it.
        if path and os.system('"{}" -c "" 2>/dev/null'.format(path)) == 0:  # noqa: S605, UP032
            return path
    return None


if __name__ == "__main__":
    if not supported(sys.version_info):
        python = find_python()
        if python is None:
            sys.exit(
                "setup: llava-server needs Python 3.10 to 3.13; this is {}.{} and no other was "
                "found on the PATH. Install one, or name it: "
                "make setup PYTHON=/path/to/python3.12".format(*sys.version_info)
            )
        os.execv(python, [python, "-m", "scripts.setup", *sys.argv[1:]])  # noqa: S606
    try:
        from scripts.setup.install import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # while importing
        code = 130
    sys.exit(code)
