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
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen beyond this machine without keys.")
    ] = None,
) -> None:
    """Train on scikit-learn's handwritten digits, publish, serve, and say what to try.

    What an earlier run has published is used again.

    Example: elbod demo --port 8000
    """
    from elbod.settings import load_settings

    settings = load_settings(store=store, host=host, port=port, model=_MODEL, insecure=insecure)
    from elbod.api.server import bind, refuse_open_door
    from elbod.supervisor import supervise
    from elbod_store import ModelStore

    if serve:
        # A port in use and a door left open are said before the training, not after it.
        refuse_open_door(settings)
        bind(settings.host, settings.port).close()
    models = ModelStore.open(settings.store)
    manifest = _published(models)
    if manifest is None:
        manifest = _train(models, settings.device)
    else:
        typer.echo(f"using {manifest.name}@{manifest.version}, published {manifest.created:%Y-%m-%d %H:%M} UTC")
        if "elbo" in manifest.metrics:
            typer.echo(_held_out(manifest.metrics))
    if serve:
        row = _held_out_row(models, manifest)
        with_key = settings.keys_file is not None
        code = supervise(settings, announce=lambda url: typer.echo(_what_to_try(url, row, with_key=with_key)))
        raise typer.Exit(code)


def _published(store: "ModelStore") -> "Manifest | None":
    from elbod_store import NotFound

    try:
        return store.resolve(f"{_MODEL}@{_ALIAS}")
    except NotFound:
        return None


def _train(store: "ModelStore", device: str) -> "Manifest":
    from elbod.training import recipes
    from elbod.training.progress import console_listener
    from elbod.training.worker import run_training

    recipe = recipes.recipe(_MODEL)
    return run_training(recipe, store, name=_MODEL, device=device, alias=_ALIAS, progress=console_listener())


def _held_out(metrics: dict[str, Any]) -> str:
    nats = f"held-out ELBO {metrics['elbo']:.2f} ± {metrics['standard_error']:.2f} nats"
    if metrics["bits_per_dim"] is None:  # a density
        return nats
    return (
        f"{nats}, {metrics['bits_per_dim']:.3f} ± {metrics['bits_per_dim_standard_error']:.3f} bits/dim "
        f"(independent pixels {metrics['baseline']['bits_per_dim']:.3f})"
    )


def _held_out_row(store: "ModelStore", manifest: "Manifest") -> list[Any] | None:
    from safetensors.numpy import load

    if manifest.reference is None:
        return None
    row: list[Any] = load(store.read(manifest.reference))["x"][:1].tolist()
    return row


def _what_to_try(url: str, row: list[Any] | None, *, with_key: bool) -> str:
    header = "-H 'Content-Type: application/json'"
    if with_key:
        header += ' -H "Authorization: Bearer $ELBOD_API_KEY"'
    image = "-H 'Accept: image/png' -d '{\"num_samples\": 64, \"seed\": 7}' -o digits.png"
    commands = [f"curl -s {url}/sample {header} {image}"]
    if row is not None:
        x = json.dumps(row, separators=(",", ":"))
        sizes = '"num_samples": 16, "num_importance_samples": 64, "seed": 7'
        commands += [
            f"curl -s {url}/encode {header} -d '{{\"x\": {x}}}'",
            f"curl -s {url}/elbo {header} -d '{{\"x\": {x}, {sizes}}}'",
        ]
    title = f"\nelbod is ready: open {url}/ in a browser (the API: {url}/docs), or try in another terminal:"
    return "\n\n".join([title, *commands, "Ctrl-C stops the server."])
