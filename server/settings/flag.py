"""Flag: what the command line needs to know of a setting beside its type and description."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """How a setting looks on the command line: its group, short spellings and placeholder.

    ``default`` replaces the default's own text in the help where that says more. With ``bare``
    and ``negative`` it is a switch as well: those are the values of ``--flag`` and ``--no-flag``.
    With ``repeat`` it may be given several times, and each time with several values.
    """

    group: str
    short: tuple[str, ...] = ()
    metavar: str | None = None
    default: str | None = None
    bare: str | None = None
    negative: str | None = None
    repeat: bool = False
