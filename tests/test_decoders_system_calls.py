"""The numbers of the system calls that a decoder may make are the kernel's, for both processors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.decoders import system_calls

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
# Where aarch64 has no call of that name, as others do the same.
OLD = {"dup2"}


def numbers(header: Path) -> dict[str, int]:
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text(encoding="utf-8"))
    return {name: int(number) for name, number in found}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_those_of_the_kernel_s_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    column, *_, seccomp = system_calls._MACHINES[machine]
    expected = numbers(HEADERS[machine])
    assert seccomp == expected["seccomp"]
    single = {"clone": system_calls._CLONE, "clone3": system_calls._CLONE3}
    for name, both in (system_calls._ALLOWED | system_calls._OWN | single).items():
        if both[column] is None:
            assert name in OLD
        else:
            assert both[column] == expected[name], name


def test_the_filter_is_a_program_that_the_kernel_can_check() -> None:
    """Each jump stays inside, and the last instruction returns; Linux takes 4096 at most."""
    for column, machine, _ in system_calls._MACHINES.values():
        code = system_calls._filter(column, machine, 1234)
        instructions = [code[at : at + 8] for at in range(0, len(code), 8)]
        assert len(code) % 8 == 0
        assert len(instructions) < 4096
        assert instructions[-1][0] == system_calls._RETURN
        for number, (low, _, yes, no, *_) in enumerate(instructions):
            if low in (system_calls._EQUAL, system_calls._ANY_BIT):
                assert number + 1 + max(yes, no) < len(instructions)
