"""What we use of ggml itself: devices, cuts within a graph, rows of any type as numbers."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import llama_cpp
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from server.memory.measured.system import read_ram
from server.messages import BuildFacts, DeviceMemory

# Long enough to cost little (a cut takes some 50 microseconds), short enough to wait for.
CUT_SECONDS = 0.008
_MOST_NODES = 4096


class Cuts:
    """Interrupts libmtmd's graph after every few operations, about every ``CUT_SECONDS``.

    ggml's scheduler asks a callback before each node whether it wants to see the result
    (``ggml_backend_sched_eval_callback``, ggml-backend.h); where it does, all nodes up to there
    are computed, all threads have met, and the caller's thread is ours until we return. What
    ``between`` does there may run llama.cpp itself, with all threads: nothing else computes.
    """

    def __init__(self) -> None:
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._at_node)
        self._between: Callable[[], bool] = _go_on
        self._raised: BaseException | None = None
        self.ended = False
        self._stride = 1
        self._nodes = 0
        self._began = 0.0
        self.seconds_away = 0.0

    def run(self, work: Callable[[], Any], between: Callable[[], bool]) -> Any:
        """Calls ``work``, which encodes, and ``between`` at the cuts; False ends the encode early.

        What was encoded is then of no use: ``ended`` tells. Exceptions of ``between`` end it
        too, and come out here. ``seconds_away`` is the time spent in ``between``.
        """
        self._between, self._raised, self.ended = between, None, False
        self._nodes, self._began, self.seconds_away = 0, time.perf_counter(), 0.0
        try:
            return work()
        finally:
            self._between = _go_on
            self._set_stride()
            if self._raised is not None:
                raise self._raised

    def _at_node(self, _tensor: Any, asked: bool, _data: Any) -> bool:
        if asked:
            self._nodes += 1
            return self._nodes % self._stride == 0
        start = time.perf_counter()
        try:
            # ggml asks again for each part of the graph that is left; the answer stays the same.
            self.ended = self.ended or not self._between()
        except BaseException as error:
            self._raised, self.ended = error, True  # nothing may be thrown through C
        self.seconds_away += time.perf_counter() - start
        return not self.ended

    def _set_stride(self) -> None:
        if self._nodes:
            own = time.perf_counter() - self._began - self.seconds_away
            wanted = CUT_SECONDS * self._nodes / max(own, 1e-9)
            self._stride = int(min(max(wanted, 1), _MOST_NODES))


def _go_on() -> bool:
    return True


# enum ggml_backend_dev_type
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta"}


class _Props(ctypes.Structure):
    """``struct ggml_backend_dev_props``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", ctypes.c_bool * 5),
    )


@cache
def ggml() -> Any:
    """The functions of ggml and its backends that llama.cpp itself calls.

    They are looked up from libllama on, through what it is linked to. A wheel has each library
    three times instead of links, so one that is opened by its path would be loaded once more, with
    a list of devices of its own. A function that is missing raises AttributeError.
    """
    opened = llama_cpp.llama_cpp._lib
    return ctypes.CDLL(opened._name, handle=opened._handle)


@cache
def _functions() -> Any:
    library = ggml()
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_get_props.restype = None
    library.ggml_backend_dev_get_props.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Props)]
    library.ggml_backend_dev_name.restype = ctypes.c_char_p
    library.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    library.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    library.ggml_backend_reg_name.restype = ctypes.c_char_p
    library.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
    return library


def _handles() -> list[int]:
    library = _functions()
    return [library.ggml_backend_dev_get(i) for i in range(library.ggml_backend_dev_count())]


def list_devices(*, remote: bool = True) -> tuple[DeviceMemory, ...]:
    """Every device of every backend with its free and total bytes, as of now.

    A ``remote`` one, of an rpc-server, answers when it has computed what it was sent before.

    The CPU's memory is the RAM that this process may have: ggml knows of no container, and calls
    all of it free.
    """
    library = _functions()
    handles = (handle for handle in _handles() if remote or _backend(library, handle) != "RPC")
    return tuple(_read(library, handle) for handle in handles)


def _backend(library: Any, handle: int) -> str:
    return _text(library.ggml_backend_reg_name(library.ggml_backend_dev_backend_reg(handle)))


def _read(library: Any, handle: int) -> DeviceMemory:
    props = _Props()
    library.ggml_backend_dev_get_props(handle, ctypes.byref(props))
    kind = _KINDS.get(props.type, "unknown")
    free, total = props.memory_free, props.memory_total
    # A GPU that reports nothing shares the RAM; llama.cpp takes it so as well.
    if kind == "cpu" or (kind in {"gpu", "igpu"} and not total):
        ram = read_ram()
        free, total = ram.available, ram.total
    return DeviceMemory(
        name=_text(props.name),
        description=_text(props.description).strip(),
        kind=kind,
        free=free,
        total=total,
        backend=_backend(library, handle),
        device_id=_text(props.device_id),
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def device_handle(name: str) -> int | None:
    """The ``ggml_backend_dev_t`` of that name."""
    library = _functions()
    return next((h for h in _handles() if _text(library.ggml_backend_dev_name(h)) == name), None)


def build_facts(devices: Sequence[DeviceMemory]) -> BuildFacts:
    """Which llama.cpp this is and what it was built for."""
    return BuildFacts(
        llama_cpp_python=llama_cpp.__version__,
        backends=tuple(device.name for device in devices),
        # llama.cpp's own answer is yes wherever RPC is built in.
        gpu_offload=any(d.kind in {"gpu", "igpu"} and d.backend != "RPC" for d in devices),
        system_info=llama_cpp.llama_print_system_info().decode().strip(),
    )


_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """The beginning of ``struct ggml_type_traits`` (ggml.h)."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
    )


class Dequantizer:
    """Rows of one type to float32, bit for bit as llama.cpp's graph does it on a CPU."""

    def __init__(self, kind: GGMLQuantizationType) -> None:
        """Raises LookupError where this ggml cannot do it, or has another idea of the type."""
        self._to_float: Any = None
        if kind != GGMLQuantizationType.F32:
            self._to_float = _to_float(kind)

    def __call__(self, raw: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
        """From the bytes of rows, uint8 [n, row bytes], to float32 [n, width]."""
        raw = np.ascontiguousarray(raw)
        if self._to_float is None:
            return raw.view(np.float32)
        rows = np.empty((len(raw), width), np.float32)
        # A row is a whole number of blocks, so all of them are one long row.
        self._to_float(raw.ctypes.data, rows.ctypes.data, rows.size)
        return rows


def _to_float(kind: GGMLQuantizationType) -> Any:
    try:
        get = ggml().ggml_get_type_traits
    except AttributeError as error:
        raise LookupError(f"ggml_get_type_traits is missing: {error}") from None
    get.restype, get.argtypes = ctypes.POINTER(_Traits), [ctypes.c_int]
    traits = get(int(kind)).contents
    # An older or newer ggml may have laid the structure out in another way.
    if (traits.blck_size, traits.type_size) != GGML_QUANT_SIZES[kind] or not traits.to_float:
        raise LookupError(f"this ggml does not turn {kind.name} into numbers")
    return traits.to_float
