"""The memory report as a table, for the log at start and for ``llava-server plan --measured``."""

from __future__ import annotations

from collections.abc import Iterator

from server.messages import MemoryPart, MemoryReport

_MIB = 1024 * 1024


def format_report(report: MemoryReport) -> list[str]:
    """The report's lines: parts, their sums, devices, and what the fit decided."""
    lines = [f"{'part':<16}{'device':<10}{'planned':>12}{'measured':>12}  MiB"]
    for part in report.parts:
        mark = "  estimated" if part.estimated else ""
        if part.part in {"image_cache", "prompt_cache"}:
            mark = "  at most; fills with use"
        lines.append(f"{part.part:<16}{part.device:<10}{_numbers(part)}{mark}")
    total = _total(report.parts)
    lines.append(f"{'total':<26}{_numbers(total)}")
    lines += _devices(report)
    where = f", vision tower on {report.encoder}" if report.encoder else ""
    lines.append(f"layers offloaded: {report.layers_offloaded} of {report.layers}{where}")
    return lines


def _total(parts: tuple[MemoryPart, ...]) -> MemoryPart:
    planned = sum(part.predicted or 0 for part in parts)
    return MemoryPart("total", "", planned, sum(part.measured or 0 for part in parts))


def _numbers(part: MemoryPart) -> str:
    return "".join(
        f"{'-' if size is None else f'{size / _MIB:.1f}':>12}"
        for size in (part.predicted, part.measured)
    )


def _devices(report: MemoryReport) -> Iterator[str]:
    no_gpu = all(device.kind == "cpu" for device in report.devices if device.total)
    for device in report.devices:
        if not device.total:
            continue  # an accelerator that works in the RAM (BLAS, AMX)
        where = "RAM" if device.kind in {"cpu", "igpu"} else "VRAM"
        used = "" if device.used is None else f", {device.used / _MIB:.0f} MiB used by the engine"
        note = " (no GPU: everything is in the RAM)" if no_gpu else ""
        yield (
            f"{device.name} ({device.description}): {device.free / _MIB:.0f} MiB of"
            f" {device.total / _MIB:.0f} MiB {where} free{used}{note}"
        )
