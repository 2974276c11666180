"""Our OpenAPI document: complete, valid, and true to what is answered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fakes import FakeEngine, call, chat, image_part
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel

from server.api.app import create_app
from server.api.http.openapi import document, operation
from server.api.options import ApiOptions
from server.api.page import PAGE_PATHS

ROOT = Path(__file__).resolve().parents[1]
# The page itself, its files, and what tests put in.
UNTOLD = {"/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon.png"}


def app_and_document(**options: Any) -> tuple[Any, dict[str, Any]]:
    app = create_app(FakeEngine(), ApiOptions(**options))
    response = call(app, "GET", "/openapi.json")
    assert response.status_code == 200
    return app, response.json()


def schema(found: dict[str, Any], name: str) -> Any:
    """A validator for one of the document's components."""
    reference = {"$ref": f"#/components/schemas/{name}"}
    return jsonschema_rs.Draft202012Validator({**reference, "components": found["components"]})


def test_every_endpoint_says_what_it_takes_and_answers() -> None:
    app, found = app_and_document()
    for route in iter_route_contexts(app.routes):
        if route.path in UNTOLD | PAGE_PATHS:
            continue
        for method in route.methods or ():
            told = found["paths"][route.path.replace(":path}", "}")][method.lower()]
            assert told["tags"], f"{method} {route.path}: see server.api.http.openapi.operation"
            for status, answer in told["responses"].items():
                assert answer["headers"]["x-request-id"]
                for kind, content in answer["content"].items():
                    assert content["schema"], f"{method} {route.path} {status} {kind}"
            if method == "POST" and not route.path.endswith("/cancel"):
                assert told["requestBody"]["content"], route.path
                assert "400" in told["responses"], route.path


def test_document_is_valid_and_its_references_lead_somewhere() -> None:
    _, found = app_and_document()
    assert found["openapi"].startswith("3.1")
    text = str(found)
    assert "$comment" not in text
    assert "$defs" not in text
    for name, each in found["components"]["schemas"].items():
        jsonschema_rs.meta.validate(each)
        schema(found, name)  # raises for a reference into nothing


def test_answers_are_as_the_document_says() -> None:
    app, found = app_and_document()
    body = chat([image_part()])
    whole = call(app, "POST", "/v1/chat/completions", json=body).json()
    schema(found, "ChatCompletion").validate(whole)
    schema(found, "ErrorAnswer").validate(call(app, "GET", "/nowhere").json())
    schema(found, "ModelList").validate(call(app, "GET", "/v1/models").json())
    inspect = call(
        app, "POST", "/v1/images/inspect", json={"url": image_part()["image_url"]["url"]}
    )
    schema(found, "Inspection").validate(inspect.json())
    with pytest.raises(jsonschema_rs.ValidationError):
        schema(found, "ErrorAnswer").validate({"error": {"message": "no type"}})


def test_key_is_told_of_where_one_is_needed() -> None:
    app = create_app(FakeEngine(), ApiOptions(api_keys=("k",)))
    found = call(app, "GET", "/openapi.json").json()
    assert found["security"] == [{"key": []}]
    assert "security" not in app_and_document()[1]


def test_page_and_its_files_are_served_from_here() -> None:
    app, _ = app_and_document()
    page = call(app, "GET", "/docs")
    assert page.status_code == 200
    assert "http://" not in page.text.replace("http://test", "")
    assert "https://" not in page.text
    for path in UNTOLD - {"/docs"}:
        assert path.removeprefix("/") in page.text
        assert call(app, "GET", path).status_code == 200


def test_page_and_document_can_be_switched_off() -> None:
    app = create_app(FakeEngine(), ApiOptions(docs=False))
    for path in ("/docs", "/openapi.json", "/docs/swagger-ui.css"):
        assert call(app, "GET", path).status_code == 404


def test_two_models_of_one_name_are_noticed() -> None:
    def model(kind: type) -> type[BaseModel]:
        return type("Twice", (BaseModel,), {"__annotations__": {"field": kind}})

    app = create_app(FakeEngine(), ApiOptions(docs=False))
    for number, kind in enumerate((int, str)):
        app.get(f"/{number}", **operation("x", "x", answer=model(kind)))(lambda: None)
    with pytest.raises(ValueError, match="Twice"):
        document(app, keys=False)


def test_comparison_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")
    alike = text.partition("## Not alike")[0]
    for line in alike.splitlines():
        if line.startswith("| ") and "`" in line and "behaviour" not in line:
            ours = re.findall(r"`(test_\w+)`", line.rstrip(" |").rpartition("|")[2])
            assert ours, line
            assert all((ROOT / "tests" / f"{name}.py").exists() for name in ours), line
