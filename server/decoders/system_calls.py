"""The system calls that are left to a decoder: those on what it has open, and on its memory.

A filter of seccomp, which the kernel asks before each call and which cannot be taken away again.
RLIMIT_NOFILE alone is no barrier to a codec that runs a client's code: it may close a descriptor
and open another one in its place. Whatever is not listed here fails with EPERM, so that a codec
which asks for more than it needs goes on without it.

By hand, since libseccomp's bindings need the C library on the system.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final

# Numbers of system calls on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h); None where
# there is no such call.
_ALLOWED: Final[dict[str, tuple[int | None, int | None]]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "sendto": (44, 206),
    "lseek": (8, 62),
    "close": (3, 57),
    "dup2": (33, None),
    "dup3": (292, 24),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "rseq": (334, 293),
    "set_robust_list": (273, 99),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "setitimer": (38, 103),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "times": (100, 153),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "getcwd": (79, 17),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Of these the first argument must be the process's own id: it may end itself, as abort() does.
_OWN: Final = {"kill": (62, 129), "tgkill": (234, 131)}
# A thread, and no process: libde265 decodes HEIC in one whatever it is asked. The flags of clone3
# are out of the filter's sight; where the system seems not to have it, the C library takes clone.
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x00010000

# linux/audit.h; the number of seccomp(2) itself.
_MACHINES: Final = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}
# linux/bpf_common.h: load a word of what the kernel shows, compare, return.
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST = 0, 4, 16
# linux/seccomp.h
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_MODE_FILTER = 1
# Or older kernels would slow the process down for an attack that it could not carry out.
_SPEC_ALLOW = 1 << 2
_NO_NEW_PRIVILEGES = 38


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def restrict_system_calls() -> bool:
    """Takes all other calls from this process for good; False where the system cannot.

    For a process with one thread: another one would keep its calls.
    """
    machine = _MACHINES.get(os.uname().machine)
    if sys.platform != "linux" or machine is None or sys.maxsize < 1 << 32:
        return False
    column, audit, seccomp = machine
    code = _filter(column, audit, os.getpid())
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    for flags in (_SPEC_ALLOW, 0):
        if not libc.syscall(seccomp, _MODE_FILTER, flags, ctypes.byref(program)):
            return True
    return False


def _filter(column: int, audit: int, pid: int) -> bytes:
    """The program: skips ``yes`` or ``no`` instructions after each comparison."""
    code = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _REFUSE)]
    code.append((_LOAD, 0, 0, _NUMBER))
    for numbers in _ALLOWED.values():
        if (number := numbers[column]) is not None:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    code += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _UNKNOWN)]
    tests = [(numbers[column], (_EQUAL, 0, 1, pid)) for numbers in _OWN.values()]
    for number, test in (*tests, (_CLONE[column], (_ANY_BIT, 0, 1, _CLONE_THREAD))):
        first = (_LOAD, 0, 0, _FIRST)
        code += [(_EQUAL, 0, 4, number), first, test, (_RETURN, 0, 0, _ALLOW)]
        code.append((_RETURN, 0, 0, _REFUSE))
    code.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *each) for each in code)
