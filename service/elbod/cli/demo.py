"""`elbod demo`: from nothing to a served model of handwritten digits."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from elbod_store import Manifest, ModelStore

_MODEL = "digits"
_ALIAS = "production"


def demo(
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the model afterwards.")] = True,
    store: Annotated[str | None, typer.Option(help="URL or folder of the model store.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Train on scikit-learn's handwritten digits, publish, serve, and say what to try.

    What an earlier run has published is used again.

    Example: elbod demo --port 8000
    """
    from elbod.settings import load_settings

    settings = load_settings(store=store, host=host, port=port, model=_MODEL)
    from elbod.api.server import bind
    from elbod.api.server import serve as serve_app
    from elbod_store import ModelStore

    if serve:
        # A port in use is said before the training, not after it.
        bind(settings.host, settings.port).close()
    models = ModelStore.open(settings.store)
    manifest = _published(models)
    if manifest is None:
        manifest = _train(models)
    else:
        typer.echo(f"using {manifest.name}@{manifest.version}, published {manifest.created:%Y-%m-%d %H:%M} UTC")
        typer.echo(_held_out(manifest.metrics))
    if not serve:
        return
    row = _held_out_row(models, manifest)
    serve_app(settings, announce=lambda url: typer.echo(_what_to_try(url, row)))


def _published(store: "ModelStore") -> "Manifest | None":
    from elbod_store import NotFound

    try:
        return store.resolve(f"{_MODEL}@{_ALIAS}")
    except NotFound:
        return None


def _train(store: "ModelStore") -> "Manifest":
    from elbod.training import recipes
    from elbod.training.progress import console_listener
    from elbod.training.worker import run_training

    return run_training(recipes.recipe(_MODEL), store, name=_MODEL, alias=_ALIAS, progress=console_listener())


def _held_out(metrics: dict[str, Any]) -> str:
    baseline = metrics["baseline"]
    return (
        f"held-out ELBO {metrics['elbo']:.2f} ± {metrics['standard_error']:.2f} nats, "
        f"{metrics['bits_per_dim']:.3f} ± {metrics['bits_per_dim_standard_error']:.3f} bits/dim "
        f"(independent pixels {baseline['bits_per_dim']:.3f})"
    )


def _held_out_row(store: "ModelStore", manifest: "Manifest") -> list[Any]:
    from safetensors.numpy import load

    assert manifest.reference is not None
    row: list[Any] = load(store.read(manifest.reference))["x"][:1].tolist()
    return row


def _what_to_try(url: str, row: list[Any]) -> str:
    x = json.dumps(row, separators=(",", ":"))
    header = "-H 'Content-Type: application/json'"
    return f"""
elbod is ready on {url} (API: {url}/docs). Try, in another terminal:

curl -s {url}/sample {header} -H 'Accept: image/png' -d '{{"num_samples": 64, "seed": 7}}' -o digits.png

curl -s {url}/encode {header} -d '{{"x": {x}}}'

curl -s {url}/elbo {header} -d '{{"x": {x}, "num_samples": 16, "num_importance_samples": 64, "seed": 7}}'

Ctrl-C stops the server."""
