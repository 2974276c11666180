"""Prints the devices of this machine as JSON: for commands, which load no llama.cpp."""

from __future__ import annotations

import json
from dataclasses import asdict

from server.engine.bindings.devices import list_devices

if __name__ == "__main__":
    print(json.dumps([asdict(device) for device in list_devices()]))
