"""What the package offers, and what importing it costs."""

import subprocess
import sys

import elbod_store


def test_the_public_names_are_these() -> None:
    assert sorted(elbod_store.__all__) == [
        "AliasEntry",
        "Blob",
        "Conflict",
        "Corrupt",
        "Draft",
        "Finding",
        "Garbage",
        "InvalidDraft",
        "InvalidName",
        "Manifest",
        "ModelStore",
        "NotFound",
        "Reference",
        "Retired",
        "RunDraft",
        "RunEntry",
        "StoreError",
        "Unavailable",
        "UnknownAlias",
        "UnknownModel",
        "UnknownRun",
        "UnknownVersion",
        "Unsupported",
        "Watch",
        "model_digest",
        "parse_reference",
    ]
    assert all(hasattr(elbod_store, name) for name in elbod_store.__all__)


def test_every_error_is_a_store_error() -> None:
    errors = [value for value in vars(elbod_store).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(errors) == 13
    assert all(issubclass(error, elbod_store.StoreError) for error in errors)


def test_importing_the_store_imports_neither_torch_nor_the_service_nor_pytest() -> None:
    unwanted = {"torch", "numpy", "safetensors", "elbod", "pytest", "pickle"}
    code = "import sys, elbod_store; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "elbod_store" in imported
    assert not unwanted.intersection(imported)
