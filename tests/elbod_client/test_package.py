"""What the package offers, and what importing it costs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import elbod_client
from elbod_client import Client, ElbodError, _errors

ROOT = Path(elbod_client.__file__).parent.parent


def run(code: str) -> list[str]:
    """What the code prints in a fresh interpreter, in words."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_the_public_names_are_these() -> None:
    assert elbod_client.__all__ == [
        "AliasMove",
        "AsyncClient",
        "BadRequest",
        "BodyTooLarge",
        "BodyTooSlow",
        "Client",
        "Conflict",
        "ConnectionFailed",
        "DeadlineExceeded",
        "ElbodError",
        "Estimator",
        "FingerprintWarning",
        "Forbidden",
        "InvalidInput",
        "InvalidResponse",
        "LoadedVersion",
        "ModelIdentity",
        "NotAcceptable",
        "NotFound",
        "NotReady",
        "Posterior",
        "Process",
        "PublishedModel",
        "QueueFull",
        "Receipt",
        "Samples",
        "Scores",
        "ServerError",
        "Summary",
        "Unauthorized",
        "UnsupportedMediaType",
    ]
    assert all(hasattr(elbod_client, name) for name in elbod_client.__all__)


def test_the_version_is_this_and_the_package_is_typed() -> None:
    assert elbod_client.__version__ == "0.1.0"
    assert (ROOT / "elbod_client" / "py.typed").exists()


def test_every_error_is_public_an_elbod_error_and_drawn_in_the_tree() -> None:
    errors = {
        name: value for name, value in vars(_errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert all(issubclass(error, ElbodError) and name in elbod_client.__all__ for name, error in errors.items())
    assert _errors.__doc__ is not None
    assert set(re.findall(r"^ +[|` -]*([A-Z]\w+)", _errors.__doc__, re.MULTILINE)) == errors.keys()


def test_settings_beyond_the_first_argument_are_given_by_name() -> None:
    for function, positional in ((Client, 1), (Client.sample, 2), (Client.encode, 2), (Client.elbo, 2)):
        kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
        assert kinds[:positional] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * positional
        assert set(kinds[positional:]) == {inspect.Parameter.KEYWORD_ONLY}


def test_the_client_imports_where_server_and_torch_are_missing() -> None:
    blocked = ("torch", "pydantic", "fastapi", "elbod", "elbod_store", "safetensors", "orjson", "msgspec")
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in blocked)
    assert run(f"{block}; import elbod_client; print(elbod_client.__version__)") == ["0.1.0"]


def test_beyond_httpx_and_numpy_only_the_standard_library_is_imported() -> None:
    # What httpx brings itself; click, rich and pygments are its command line's, which it imports where installed.
    of_httpx = {"httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi"} | {
        "click",
        "rich",
        "pygments",
        "markdown_it",
        "mdurl",
        "typing_extensions",
    }
    before = set(run("print(*sys.modules)"))
    imported = {name.partition(".")[0] for name in set(run("import elbod_client; print(*sys.modules)")) - before}
    assert imported - of_httpx - {"numpy", "elbod_client"} <= sys.stdlib_module_names | {"charset_normalizer"}


def test_importing_the_client_adds_little_to_importing_httpx_and_numpy() -> None:
    before, after = (len(run(f"import httpx, numpy{more}; print(*sys.modules)")) for more in ("", ", elbod_client"))
    # Twenty of its own; asyncio and what that imports.
    assert after - before < 100
