"""`elbod models`: what a store has, where its aliases point, and how it is kept."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from elbod_store import AliasEntry, ModelStore

app = typer.Typer(no_args_is_help=True, help="Look into a model store, move its aliases, and keep it.")

_Reference = Annotated[str, typer.Argument(help="name, name@alias or name@version")]
_Name = Annotated[str, typer.Argument(help="a model's name")]
_Alias = Annotated[str, typer.Option(help="The alias, for example production.")]
_Why = Annotated[str, typer.Option(help="Goes into the alias's history.")]
_Store = Annotated[str | None, typer.Option(help="URL or folder of the model store.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_models(store: _Store = None, as_json: _AsJson = False) -> None:
    """List models, their live versions and aliases.

    Example: elbod models list
    """
    opened = _open(store)
    found: list[dict[str, Any]] = [
        {"name": name, "versions": opened.versions(name), "aliases": opened.aliases(name)} for name in opened.names()
    ]
    rows = [
        (model["name"], _numbers(model["versions"]), ", ".join(f"{a} -> {v}" for a, v in model["aliases"].items()))
        for model in found
    ]
    _show({"models": found}, ("model", "versions", "aliases"), rows, as_json)


@app.command()
def show(reference: _Reference, store: _Store = None, as_json: _AsJson = False) -> None:
    """Show the card of a version, or all that its manifest says with --json.

    Example: elbod models show digits@production
    """
    import msgspec

    manifest = _open(store).resolve(reference)
    if as_json:
        typer.echo(msgspec.json.encode(manifest).decode())
    else:
        typer.echo(
            f"{manifest.name}@{manifest.version}, {manifest.created:%Y-%m-%d %H:%M} UTC, digest {manifest.digest}\n"
        )
        typer.echo(manifest.card)


@app.command()
def promote(
    reference: _Reference,
    alias: _Alias = "production",
    why: _Why = "by hand",
    store: _Store = None,
    as_json: _AsJson = False,
) -> None:
    """Point an alias at a version.

    Example: elbod models promote digits@12 --alias production --why "better on the new scanner"
    """
    opened = _open(store)
    manifest = opened.resolve(reference)
    _moved(opened.promote(manifest.name, alias, manifest.version, who=_who(), why=why), as_json)


@app.command()
def rollback(
    name: _Name, alias: _Alias = "production", why: _Why = "by hand", store: _Store = None, as_json: _AsJson = False
) -> None:
    """Point an alias back at the version that it named before.

    Example: elbod models rollback digits --alias production
    """
    _moved(_open(store).rollback(name, alias, who=_who(), why=why), as_json)


@app.command()
def history(name: _Name, alias: _Alias = "production", store: _Store = None, as_json: _AsJson = False) -> None:
    """Show where an alias pointed, since when, by whom and why.

    Example: elbod models history digits --alias production
    """
    entries = [_entry(entry) for entry in _open(store).history(name, alias)]
    rows = [(e["entry"], e["version"] or "removed", e["when"][:16], e["who"], e["why"]) for e in entries]
    _show({"name": name, "alias": alias, "history": entries}, ("entry", "version", "when", "who", "why"), rows, as_json)


@app.command()
def retire(reference: _Reference, store: _Store = None, as_json: _AsJson = False) -> None:
    """Take a version out of service for good; `gc` may free its blobs then.

    Example: elbod models retire digits@3
    """
    opened = _open(store)
    manifest = opened.resolve(reference)
    opened.retire(manifest.name, manifest.version)
    _say(f"retired {manifest.name}@{manifest.version}", {"name": manifest.name, "version": manifest.version}, as_json)


@app.command("gc")
def collect(
    grace: Annotated[float, typer.Option(min=0, help="Hours that a blob is left alone after it was written.")] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it they are only listed.")] = False,
    store: _Store = None,
    as_json: _AsJson = False,
) -> None:
    """List, or delete, the blobs that no live version and no training run names.

    Example: elbod models gc --yes
    """
    opened = _open(store)
    garbage = opened.garbage(grace=timedelta(hours=grace))
    deleted: list[str] = []
    if yes:
        opened.delete_garbage(garbage, on_deleted=lambda blob: deleted.append(blob.key))
    described = {
        "garbage": [{"key": g.key, "size": g.size, "modified": g.modified.isoformat()} for g in garbage],
        "deleted": deleted,
    }
    rows = [(blob.key, f"{blob.size:,}", f"{blob.modified:%Y-%m-%d %H:%M}") for blob in garbage]
    _show(described, ("blob", "bytes", "written"), rows, as_json)
    if not as_json:
        total = sum(blob.size for blob in garbage)
        done = f"{len(deleted):,} deleted" if yes else "delete them with --yes" if garbage else "nothing to delete"
        typer.echo(f"{len(garbage):,} blobs, {total:,} bytes that nothing names: {done}")


@app.command()
def verify(store: _Store = None, as_json: _AsJson = False) -> None:
    """Read and hash everything that is live. Exit code 1 if anything is wrong.

    Example: elbod models verify
    """
    looked, nbytes, problems = 0, 0, []
    for finding in _open(store).verify():
        looked += 1
        nbytes += finding.nbytes
        if finding.problem is not None:
            problems.append({"place": finding.place, "problem": finding.problem})
    described = {"looked_at": looked, "bytes": nbytes, "problems": problems}
    summary = f"{looked:,} things looked at, {nbytes:,} bytes hashed: " + (
        f"{len(problems):,} wrong" if problems else "all is well"
    )
    if as_json:
        typer.echo(json.dumps(described))
    else:
        for problem in problems:
            typer.echo(f"{problem['place']}: {problem['problem']}")
        typer.echo(summary)
    if problems:
        raise typer.Exit(1)


@app.command("export")
def export_version(
    reference: _Reference,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    store: _Store = None,
    as_json: _AsJson = False,
) -> None:
    """Write a version into a folder: model.safetensors, config.json, README.md.

    Example: elbod models export digits@production ./digits
    """
    manifest = _open(store).export(reference, folder)
    described = {"name": manifest.name, "version": manifest.version, "digest": manifest.digest, "folder": str(folder)}
    _say(f"exported {manifest.name}@{manifest.version} to {folder}", described, as_json)


@app.command("import")
def import_version(
    folder: Annotated[Path, typer.Argument(help="What `export` wrote.")],
    name: Annotated[str | None, typer.Option(help="Publish under this name.")] = None,
    store: _Store = None,
    as_json: _AsJson = False,
) -> None:
    """Publish an exported version; its digest is that of the original.

    Example: elbod models import ./digits --name digits-copy
    """
    manifest = _open(store).import_(folder, name)
    described = {"name": manifest.name, "version": manifest.version, "digest": manifest.digest}
    _say(f"published {manifest.name}@{manifest.version}, digest {manifest.digest}", described, as_json)


def _open(store: str | None) -> "ModelStore":
    from elbod.settings import load_settings
    from elbod_store import ModelStore

    return ModelStore.open(load_settings(store=store).store)


def _who() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number without a name.
        return "elbod models"


def _entry(entry: "AliasEntry") -> dict[str, Any]:
    return {
        "entry": entry.number,
        "version": entry.version,
        "when": entry.when.isoformat(),
        "who": entry.who,
        "why": entry.why,
    }


def _moved(entry: "AliasEntry", as_json: bool) -> None:
    described = {"name": entry.name, "alias": entry.alias, **_entry(entry)}
    _say(f"{entry.name}@{entry.alias} is now version {entry.version}", described, as_json)


def _say(line: str, described: Mapping[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(described) if as_json else line)


def _show(described: Mapping[str, Any], titles: Sequence[str], rows: Iterable[Sequence[object]], as_json: bool) -> None:
    """One JSON object, or a table: ruled on a terminal, plain columns elsewhere."""
    if as_json:
        typer.echo(json.dumps(described))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    table = Table(*titles) if console.is_terminal else Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row))
    if table.row_count:
        # A log or a pipe has no width that a table could be cut to.
        console.print(table, width=None if console.is_terminal else 200, markup=False)


def _numbers(versions: Sequence[int]) -> str:
    """`1-3, 5`."""
    runs: list[list[int]] = []
    for version in versions:
        if runs and version == runs[-1][-1] + 1:
            runs[-1].append(version)
        else:
            runs.append([version])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
