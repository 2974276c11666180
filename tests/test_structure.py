"""The rules of the code base, checked from the syntax tree: imports, and the sizes of files.

docs/structure.md says why.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import tomli

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "server").rglob("*.py"))
LEAVES = {"server.errors", "server.messages", "server.deadline", "server.usage"}
# Tables of names, which import nothing.
LEAVES |= {"server.cache_types", "server.defaults", "server.projectors", "server.sizes"}
MAX_FILE, MAX_FUNCTION, MIN_FILE = 400, 40, 60

# Small files with one customer, each with its second reason to exist.
SMALL = {
    "server.api.middleware.paths": "each middleware is a file, as app lists them",
    "server.api.middleware.security_headers": "each middleware is a file, as app lists them",
    "server.engine.embedding": "generating, the engine's main way, is read without it",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of_source(source: str) -> Iterator[str]:
    """Dotted names of all that is imported, anywhere in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute in this house"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports; of its own house by module, else by package."""
    found = set()
    for name in imports_of_source(MODULES[module].read_text(encoding="utf-8")):
        if name.split(".")[0] != "server":
            found.add(name.split(".")[0])
        elif name in MODULES:
            found.add(name)
        else:
            found.add(name.rpartition(".")[0])
    return frozenset(found)


def reachable(module: str) -> set[str]:
    """The module and all that are loaded with it, of this house."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        parents = current.split(".")
        todo += [".".join(parents[:depth]) for depth in range(1, len(parents))]
        todo += [name for name in imports(current) if name in MODULES]
    return seen


def within(module: str, rooms: set[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def in_room(room: str) -> list[str]:
    return [module for module in MODULES if within(module, {room})]


def test_the_checks_see_what_they_should() -> None:
    assert list(imports_of_source("def f():\n import a.b\n from c import d")) == ["a.b", "c.d"]
    assert "pydantic_settings" in imports("server.settings.settings")
    assert "server.errors" in imports("server.settings.settings")
    assert {"server.settings.settings", "server.errors", "server"} <= reachable(
        "server.settings.command_line"
    )
    assert len(MODULES) > 10


def test_only_the_bindings_import_llama_cpp() -> None:
    users = {module for module in MODULES if "llama_cpp" in imports(module)}
    assert users
    assert all(within(module, {"server.engine.llama"}) for module in users), users


def test_only_the_engine_compiles_grammars() -> None:
    users = {module for module in MODULES if "llguidance" in imports(module)}
    assert users == {"server.engine.grammar"}
    for module in in_room("server.grammar"):
        ours = {name for name in imports(module) if within(name, {"server"})}
        assert all(within(name, LEAVES | {"server.grammar"}) for name in ours), module


def test_what_is_imported_is_declared() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["heic"], *extras["otel"]]
    names = {re.split("[<>=]", name)[0].lower() for name in declared}
    called = {"llama_cpp": "llama-cpp-python", "PIL": "pillow", "starlette": "fastapi"}
    called["pydantic_core"] = "pydantic"
    called["opentelemetry"] = "opentelemetry-sdk"
    for module in MODULES:
        for name in imports(module):
            if name in sys.stdlib_module_names or name.split(".")[0] == "server":
                continue
            assert called.get(name, name.replace("_", "-")) in names, f"{module} imports {name}"


@pytest.mark.parametrize("module", in_room("server.engine"))
def test_the_engine_stays_clear_of_the_web(module: str) -> None:
    libraries = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "PIL"}
    libraries |= {"prometheus_client", "huggingface_hub", "httpx2", "jinja2"}
    rooms = {"server.api", "server.settings", "server.metrics", "server.engine_client"}
    for loaded in reachable(module):
        assert not imports(loaded) & libraries, f"{module} loads {loaded}"
        assert not within(loaded, rooms), f"{module} loads {loaded}"


@pytest.mark.parametrize(
    "module", [name for name in MODULES if not within(name, {"server.engine"})]
)
def test_the_web_process_never_loads_the_engine(module: str) -> None:
    used = {name for name in imports(module) if within(name, {"server.engine"})}
    assert not used, "the engine is reached through engine_client alone"


def test_the_web_process_loads_no_codec() -> None:
    """What clients send is decoded in processes of their own (server.decoders)."""
    code = "import sys, server.serve.web_process, server.settings.settings; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "server.decoders.pool" in loaded
    assert not {"PIL", "pillow_heif"} & set(loaded)


@pytest.mark.parametrize(
    "module",
    ["server.decoders.nursery", "server.decoders.child", "server.images.jobs"],
)
def test_a_decoder_stays_clear_of_the_web(module: str) -> None:
    libraries = {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "anyio"}
    for loaded in reachable(module):
        assert not imports(loaded) & libraries, f"{module} loads {loaded}"


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, LEAVES)])
def test_leaves_import_only_each_other(module: str) -> None:
    assert all(within(name, LEAVES) for name in imports(module) if name.startswith("server"))


def test_settings_are_a_leaf_too() -> None:
    used = {name for name in imports("server.settings.settings") if name.startswith("server")}
    assert all(within(name, {*LEAVES, "server.settings"}) for name in used)
    for module in in_room("server.settings"):
        below = {name for name in imports(module) if name.startswith("server")}
        assert all(within(name, {*LEAVES, "server.settings"}) for name in below)


@pytest.mark.parametrize("module", in_room("server.api"))
def test_the_api_imports_downwards_only(module: str) -> None:
    allowed = {"server.api", "server.engine_client", "server.prompt"}
    allowed |= {
        "server.grammar",
        "server.settings.key_file",
        "server.decoders",
        "server.fair_queue",
        "server.images",
        "server.tools",
        "server.metrics",
        "server.memory",
        *LEAVES,
    }
    used = {name for name in imports(module) if name.startswith("server.")}
    assert all(within(name, allowed) for name in used), used


def test_headers_are_read_below_everything() -> None:
    for module in in_room("server.gguf"):
        used = {name for name in imports(module) if name.startswith("server.")}
        assert all(within(name, {"server.gguf", "server.errors"}) for name in used), module


@pytest.mark.parametrize("module", in_room("server.memory"))
def test_both_processes_can_plan(module: str) -> None:
    allowed = {"server.memory", "server.gguf", "server.mmproj", *LEAVES}
    for loaded in reachable(module) - {"server"}:
        assert within(loaded, allowed), f"{module} loads {loaded}"
        assert not imports(loaded) & {"pydantic", "fastapi", "llama_cpp", "huggingface_hub"}


@pytest.mark.parametrize(
    "room", ["server.images", "server.prompt", "server.tools", "server.memory", "server.mmproj"]
)
def test_rooms_below_do_not_look_up(room: str) -> None:
    upstairs = {
        "server.api",
        "server.serve",
        "server.cli",
        "server.settings",
        "server.engine_client",
    }
    for module in in_room(room):
        assert not any(within(name, upstairs) for name in imports(module)), module


def folder_of(module: str) -> str:
    """The folder below server/ that a module is in; one that is in none stands for itself."""
    return MODULES[module].relative_to(ROOT / "server").parts[0]


def test_no_folder_needs_another_that_needs_it() -> None:
    needs: dict[str, set[str]] = {folder_of(module): set() for module in MODULES}
    for module in MODULES:
        used = {folder_of(name) for name in imports(module) & MODULES.keys()}
        needs[folder_of(module)] |= used - {folder_of(module)}
    while free := [folder for folder, used in needs.items() if not used]:
        for folder in free:
            del needs[folder]
        for used in needs.values():
            used -= set(free)
    assert not needs, "a circle is among these, and those above it"


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_short(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) < MAX_FILE, f"{module} is to be divided"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length < MAX_FUNCTION, f"{module}.{node.name} has {length} lines"


def test_a_small_file_has_a_second_reason_to_exist() -> None:
    users: dict[str, set[str]] = {module: set() for module in MODULES}
    for module in MODULES:
        for name in imports(module) & MODULES.keys():
            users[name].add(module)
    small = {
        module
        for module, path in MODULES.items()
        if path.name not in ("__init__.py", "__main__.py")
        and len(users[module]) == 1
        and len(path.read_text(encoding="utf-8").splitlines()) < MIN_FILE
    }
    assert small == SMALL.keys(), "fold it into its only user, or say in SMALL why not"
