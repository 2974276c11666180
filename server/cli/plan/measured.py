"""``llava-server plan --measured``: what a running server takes, beside what was planned for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2

from server.errors import StartupError
from server.memory.measured.report import format_report
from server.messages import DeviceMemory, MemoryPart, MemoryReport
from server.sizes import MIB

_SECONDS = 10.0


def show(url: str, api_key: str | None, *, as_json: bool) -> int:
    """Prints the memory of the server at ``url``; the exit code.

    Raises:
        StartupError: no llava-server answers there.
    """
    body = fetch(url, api_key)
    if as_json:
        print(json.dumps(body, indent=2))
    else:
        try:
            print("\n".join(lines(body)))
        except (KeyError, TypeError, ValueError) as error:
            raise StartupError(f"{url} answers as no llava-server of this version does") from error
    return 0


def fetch(url: str, api_key: str | None) -> dict[str, Any]:
    """The answer of ``GET /v1/memory``. Raises StartupError like ``show``."""
    address = url.rstrip("/").removesuffix("/v1") + "/v1/memory"
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx2.get(address, headers=headers, timeout=_SECONDS)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise StartupError(f"no server answers at {url}: {error or type(error).__name__}") from None
    if response.status_code == 401:
        raise StartupError(f"{url} wants a key: --api-key, or LLAVA_API_KEY")
    if response.status_code == 503:
        raise StartupError(f"{url} is still loading its model; try again in a moment")
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.status_code != 200 or not isinstance(body, dict):
        raise StartupError(f"{url} is no llava-server (status {response.status_code})")
    return body


def lines(body: dict[str, Any]) -> Iterator[str]:
    """The table, and what the log at start cannot have."""
    yield from format_report(report_of(body))
    cells = body["cells"]
    yield f"KV cache: {cells['used']} of {cells['total']} cells used, {body['parallel']} slots"
    for name, process in body["processes"].items():
        if process is not None:
            sizes = ", ".join(f"{kind} {size / MIB:.0f} MiB" for kind, size in process.items())
            yield f"{name} process: {sizes}"
    for device in body["devices"]:
        if device["temperature"] is not None:
            yield f"{device['name']}: {device['utilization']} % busy, {device['temperature']} °C"
    for decision in body["decisions"]:
        yield f"fit: {decision['setting']} {decision['value']} ({decision['reason']})"


def report_of(body: dict[str, Any]) -> MemoryReport:
    """The report that the server was asked for; KeyError or TypeError if it is none."""
    fields = DeviceMemory.__dataclass_fields__
    devices = [{k: v for k, v in device.items() if k in fields} for device in body["devices"]]
    return MemoryReport(
        devices=tuple(DeviceMemory(**device) for device in devices),
        parts=tuple(MemoryPart(**part) for part in body["parts"]),
        layers=body["layers"],
        layers_offloaded=body["layers_offloaded"],
        encoder=body["encoder"] or "",
    )
