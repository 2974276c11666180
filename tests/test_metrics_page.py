"""docs/metrics.md and what a live server tells are the same."""

from __future__ import annotations

import re

import httpx
from live import LiveServer
from prometheus_client.parser import text_string_to_metric_families

from scripts.document_metrics import DOCUMENT, families, written


def test_the_page_is_up_to_date() -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    assert page == written(page), "run: python -m scripts.document_metrics"


def test_a_live_server_has_the_families_of_the_page_and_no_others(demo: LiveServer) -> None:
    httpx.post(f"{demo.url}/v1/chat/completions", json={"messages": 1})
    text = httpx.get(f"{demo.url}/metrics").text
    found = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
    }
    assert found == {name: kind for name, (kind, _, _) in families().items()}
    listed = re.findall(r"(?m)^\| `(\S+)` \| (\w+) \|", DOCUMENT.read_text(encoding="utf-8"))
    assert found == dict(listed)


def test_every_family_says_what_it_is() -> None:
    assert all(text for _, text, _ in families().values())
