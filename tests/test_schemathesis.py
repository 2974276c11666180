"""Schemathesis over our own OpenAPI document, against a real server: no 5xx, and no answer that
the document does not tell of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fakes import FakeEngine, call
from hypothesis import HealthCheck, Phase, given, settings
from live import LiveServer
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.api.app import create_app
from server.api.options import ApiOptions

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# Answers are short, and what is generated as an address is not asked for.
FLAGS = ("--max-tokens", "8", "--no-image-urls", "--request-timeout", "30")


def operations() -> dict[str, Any]:
    """The document's operations by method and path."""
    document = call(create_app(FakeEngine(), ApiOptions()), "GET", "/openapi.json").json()
    results = schemathesis.openapi.from_dict(document).get_all_operations()
    return {operation.label: operation for operation in (result.ok() for result in results)}


OPERATIONS = operations()
# What breaks the schema: bodies alone, for of paths nearly everything is one.
CASES = [(label, GenerationMode.POSITIVE) for label in OPERATIONS] + [
    (label, GenerationMode.NEGATIVE) for label, each in OPERATIONS.items() if list(each.body)
]
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The demo model under tight limits."""
    with LiveServer(tmp_path_factory.mktemp("schemathesis"), *FLAGS) as server:
        yield server


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_every_answer_is_as_the_document_says(
    limited: LiveServer, label: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(OPERATIONS[label].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(base_url=limited.url, checks=CHECKS, timeout=60)

    check()
