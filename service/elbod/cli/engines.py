"""`--engine`: where a command does its work."""

from pathlib import PurePosixPath

import typer


def check_engine(engine: str, actors: int | None, part_rows: int | None, output: str | None) -> bool:
    """Whether the output is a folder of parts, which an output without an ending is. Raises BadParameter."""
    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"--engine is local or ray, not {engine}")
    folder = output is not None and not PurePosixPath(output).suffix
    if engine == "ray":
        if not folder:
            raise typer.BadParameter("--engine ray writes a folder of parts: give --output FOLDER, without an ending")
        from elbod.scale.cluster import require_ray

        require_ray("--engine ray")
    elif actors is not None:
        raise typer.BadParameter("--actors is of --engine ray")
    if part_rows is not None and not folder:
        raise typer.BadParameter("--part-rows is of a folder of parts: give --output FOLDER, without an ending")
    return folder
