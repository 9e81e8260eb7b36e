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
    engine: Annotated[str, typer.Option(help="local, or ray: replicas of Ray Serve.")] = "local",
    replicas: Annotated[str | None, typer.Option(help="Of --engine ray: how many, or least:most by load.")] = None,
) -> None:
    """Serve the models of a store over HTTP.

    Flags win over ELBOD_* variables, those over elbod.toml.

    Example: elbod serve --store ./elbod-store --port 8000
    """
    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"--engine is local or ray, not {engine}")
    if engine == "local" and replicas is not None:
        raise typer.BadParameter("--replicas is of --engine ray: a machine has --workers")
    if engine == "ray" and workers is not None:
        raise typer.BadParameter("--workers is of one machine: --engine ray has --replicas")
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

    def announce(url: str) -> None:
        typer.echo(f"elbod serves {settings.store} on {url}")

    if engine == "ray":
        from elbod.scale.cluster import require_ray

        require_ray("--engine ray")
        from elbod.scale.serving import serve as serve_on_ray

        raise typer.Exit(serve_on_ray(settings, replicas or "1", announce))
    from elbod.supervisor import supervise

    raise typer.Exit(supervise(settings, announce=announce))


def _check_model(reference: str | None) -> None:
    from elbod.errors import StartupError
    from elbod_store import InvalidName, parse_reference

    if reference is None:
        return
    try:
        parse_reference(reference)
    except InvalidName as error:
        raise StartupError(f"--model or ELBOD_MODEL or model in elbod.toml: {error}") from error
