"""`elbod serve`: host the models of a store."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    store: Annotated[str | None, typer.Option(help="URL or folder of the model store.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: usable cores, at most 8, or 1 on a GPU.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    model: Annotated[str | None, typer.Option(help="Model reference of requests that name none.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen beyond this machine without keys.")
    ] = None,
    keys_file: Annotated[Path | None, typer.Option(help="Who may ask; `elbod keys add` writes it.")] = None,
    admin: Annotated[bool | None, typer.Option("--admin", help="Let keys of scope admin move aliases.")] = None,
    root_path: Annotated[str | None, typer.Option(help="Path prefix that a proxy in front strips.")] = None,
) -> None:
    """Serve the models of a store over HTTP.

    Flags win over ELBOD_* variables, those over elbod.toml.

    Example: elbod serve --store ./elbod-store --port 8000
    """
    from elbod.settings import load_settings

    settings = load_settings(
        store=store,
        host=host,
        port=port,
        workers=workers,
        device=device,
        model=model,
        insecure=insecure,
        keys_file=keys_file,
        admin=admin,
        root_path=root_path,
    )
    _check_model(settings.model)
    from elbod.supervisor import supervise

    raise typer.Exit(supervise(settings, announce=lambda url: typer.echo(f"elbod serves {settings.store} on {url}")))


def _check_model(reference: str | None) -> None:
    from elbod.errors import StartupError
    from elbod_store import InvalidName, parse_reference

    if reference is None:
        return
    try:
        parse_reference(reference)
    except InvalidName as error:
        raise StartupError(f"--model or ELBOD_MODEL or model in elbod.toml: {error}") from error
