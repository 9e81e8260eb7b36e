"""`elbod keys`: who may ask a server."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Who may ask a server: its keys, which a running one follows.")

_KeysFile = Annotated[Path | None, typer.Option(help="The keys file; default: the setting keys_file.")]


@app.command()
def add(
    name: Annotated[str, typer.Option(help="Whose key it is, for the list.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="infer (the default) or admin; may be given twice, neither has the other.")
    ] = None,
    keys_file: _KeysFile = None,
) -> None:
    """Make a key and print it, this once: the file has only its hash. A missing file is made.

    Example: elbod keys add --keys-file keys.json --name ada --scope infer --scope admin
    """
    from elbod.api import keys

    for given in scope or ():
        if given not in keys.SCOPES:
            raise typer.BadParameter(f"--scope is {' or '.join(keys.SCOPES)}")
    path = _path(keys_file)
    key, text = keys.generate(name, [known for known in keys.SCOPES if known in (scope or ("infer",))])
    keys.change(path, lambda present: [*present, key])
    typer.echo(text)
    typer.echo(f"key {key.id} of {key.name} ({', '.join(key.scopes)}) is in {path}; it is not shown again", err=True)


@app.command("list")
def list_keys(
    keys_file: _KeysFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the keys of a file by their ids.

    Example: elbod keys list --keys-file keys.json
    """
    from elbod.api import keys

    found = keys.read(_path(keys_file)).keys
    if as_json:
        shown = [key.model_dump(mode="json", include={"id", "name", "scopes", "created"}) for key in found]
        typer.echo(json.dumps({"keys": shown}))
        return
    for key in found:
        typer.echo(f"{key.id}  {key.created:%Y-%m-%d %H:%M}  {','.join(key.scopes):<12} {key.name}")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `elbod keys list` shows it.")],
    keys_file: _KeysFile = None,
) -> None:
    """Take a key away.

    Example: elbod keys revoke 5f0c2a9be1d7 --keys-file keys.json
    """
    from elbod.api import keys
    from elbod.errors import StartupError

    path = _path(keys_file)
    if not path.exists():
        raise StartupError(f"there is no keys file {path}")

    def without(present: tuple[keys.Key, ...]) -> list[keys.Key]:
        left = [key for key in present if key.id != key_id]
        if len(left) == len(present):
            # Not repeated: what was given may be a whole key.
            raise StartupError(f"no key of {path} has that id: `elbod keys list` shows them")
        return left

    keys.change(path, without)
    typer.echo(f"revoked {key_id}")


def _path(keys_file: Path | None) -> Path:
    from elbod.errors import StartupError
    from elbod.settings import load_settings

    path = load_settings(keys_file=keys_file).keys_file
    if path is None:
        raise StartupError("name the keys file: --keys-file, ELBOD_KEYS_FILE, or keys_file in elbod.toml")
    return path
