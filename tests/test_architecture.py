"""The arrows of ARCHITECTURE.md, read from the import statements, and what must be importable without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "elbod": ROOT / "service/elbod",
    "elbod_store": ROOT / "model_store/elbod_store",
    "elbod_client": ROOT / "clients/python/elbod_client",
}

# Who may import whom, room by room; every room may import itself, `elbod.errors` and `elbod.settings`.
ALLOWED = {
    "elbod.generators": set(),
    "elbod.engine": {"elbod.generators", "elbod.machine", "elbod_store"},
    "elbod.requests": {"elbod.engine", "elbod.generators", "elbod_store"},
    "elbod.api": {"elbod.engine", "elbod.generators", "elbod.requests", "elbod_store"},
    "elbod.training": {"elbod.generators", "elbod_store"},
    "elbod.report": {"elbod.engine", "elbod.generators", "elbod.requests"},
    "elbod.scale": {"elbod.api", "elbod.engine", "elbod.generators", "elbod.requests", "elbod.training", "elbod_store"},
    "elbod.supervisor": {"elbod.api", "elbod.machine", "elbod.process"},
    "elbod.process": {"elbod.api"},
    "elbod.machine": set(),
    "elbod.cli": {
        "elbod.supervisor",
        "elbod.api",
        "elbod.engine",
        "elbod.report",
        "elbod.requests",
        "elbod.scale",
        "elbod.training",
        "elbod_store",
    },
    "elbod.errors": set(),
    "elbod.settings": set(),
    "elbod_store": set(),
    "elbod_client": set(),
}
EVERYBODY = {"elbod", "elbod.errors", "elbod.settings"}


def room(module: str) -> str:
    """elbod.engine.runner -> elbod.engine; elbod_store.names -> elbod_store; elbod -> elbod."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "elbod" else parts[0]


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


def imports(path: Path) -> set[str]:
    """The modules that a file imports; of `from package import name`, the submodule if there is one."""
    known = {module for module, _ in modules()}
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                out.add(submodule if submodule in known else node.module)
    return out


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_arrows(module: str, path: Path) -> None:
    here = room(module)
    if here == "elbod":
        return
    ours = {room(name) for name in imports(path) if name.split(".")[0] in SOURCES}
    known = {name for name in ours if name in ALLOWED or name in EVERYBODY}
    everybody = EVERYBODY if here.startswith("elbod.") else set()
    assert known <= ALLOWED[here] | everybody | {here}, f"{module} imports {known}"


def test_modules_import_each_other_without_cycles() -> None:
    known = dict(modules())
    graph = {module: (imports(path) & known.keys()) - {module} for module, path in known.items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"cycle: {' -> '.join((*above, module))}"
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("elbod_store", ["torch", "elbod", "fastapi", "pydantic"]),
        ("elbod_client", ["torch", "elbod", "elbod_store", "fastapi", "pydantic"]),
        ("elbod.cli.main", ["torch", "fastapi", "sklearn"]),
        ("elbod.supervisor", ["torch", "elbod.engine", "obstore"]),
        ("elbod.engine.engine", ["fastapi", "starlette", "uvicorn"]),
        ("elbod.requests.images", ["fastapi", "starlette", "uvicorn", "httpx"]),
        ("elbod.generators.checkpoint", ["fastapi", "elbod_store", "obstore"]),
    ],
)
def test_a_package_imports_where_what_it_must_not_need_is_missing(package: str, forbidden: list[str]) -> None:
    program = f"import sys\nfor name in {forbidden!r}: sys.modules[name] = None\nimport {package}\n"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_nothing_unpickles() -> None:
    """No module imports pickle or calls torch.load; numpy is told not to."""
    for module, path in modules():
        text = path.read_text()
        assert not imports(path) & {"pickle", "cloudpickle", "joblib", "dill"}, module
        assert "torch.load" not in text, module
        assert "allow_pickle=True" not in text, module
