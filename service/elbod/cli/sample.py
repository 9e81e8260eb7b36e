"""`elbod sample`: draws from the prior, on this machine, without a server."""

from pathlib import Path
from typing import Annotated

import typer

from elbod.cli.engines import check_engine


def sample(
    model: Annotated[str, typer.Option(help="Model reference: name, name@alias or name@version.")],
    num_samples: Annotated[int, typer.Argument(min=1, help="How many rows.")] = 1,
    output: Annotated[
        str, typer.Option(help="A grid as .png, or x and z as .npz or a folder of parts.")
    ] = "samples.png",
    label: Annotated[int | None, typer.Option(min=0, help="The class of all rows, of a conditional model.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="Scale of the randomness of z.")] = 1.0,
    mean: Annotated[bool, typer.Option("--mean", help="E[x|z] in place of a sample.")] = False,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Passes of a draw, of a model with levels.")] = None,
    level: Annotated[int | None, typer.Option(min=0, help="Where z stands, of a model with levels.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ancestral or ddim, of a model with levels.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="How much further draws go towards --label (models with a null label)."),
    ] = None,
    trajectory: Annotated[
        int | None, typer.Option(min=1, max=16, help="Also save E[x|z] at this many levels (models with levels).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Decides everything random.")] = 0,
    first_index: Annotated[int, typer.Option(min=0, max=2**56 - 1, help="Example index of the first row.")] = 0,
    engine: Annotated[str, typer.Option(help="local, or ray: the parts of a folder on a Ray cluster.")] = "local",
    actors: Annotated[int | None, typer.Option(min=1, help="Of --engine ray; default: one a core, or a GPU.")] = None,
    part_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of each part of a folder; default: by work.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    store: Annotated[str | None, typer.Option(help="URL or folder of the model store.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
) -> None:
    """Draw rows from a published model.

    The bytes are those of POST /sample with the same seed. A folder is written part by part: interrupted, the same
    command goes on with the parts that are not there.

    Example: elbod sample 64 --model digits --output digits.png
    """
    if sampler not in (None, "ancestral", "ddim"):
        raise typer.BadParameter("--sampler is ancestral or ddim")
    in_parts = check_engine(engine, actors, part_rows, output)
    if trajectory is not None and output.endswith(".png"):
        raise typer.BadParameter("--trajectory gives an array: give --output FILE.npz, or a folder")
    from elbod.cli.tables import check_output, write_arrays, write_whole
    from elbod.settings import load_settings

    settings = load_settings(store=store, device=device)
    if not in_parts:
        check_output(Path(output), (".png", ".npz"))
    # torch takes seconds to import: only now, with the configuration checked.
    import numpy as np

    from elbod.cli.scoring import Session, describe
    from elbod.engine.jobs import Verb
    from elbod.requests.checks import UNLIMITED
    from elbod.requests.images import png_grid
    from elbod.requests.verbs import SampleRequest, validated

    fields = {
        "seed": seed,
        "first_index": first_index,
        "temperature": temperature,
        "output": "mean" if mean else "sample",
        "num_steps": num_steps,
        "level": level,
        "include": [] if trajectory is None else ["trajectory"],
        "trajectory_steps": trajectory,
    } | {key: value for key, value in (("sampler", sampler), ("guidance", guidance)) if value is not None}
    if in_parts:
        from elbod.cli import parts

        request = parts.Request(
            verb=Verb.SAMPLE,
            model=model,
            output=output,
            engine=engine,
            actors=actors,
            part_rows=part_rows,
            rows=num_samples,
            quiet=as_json,
            fields=fields | {"label": label, "include": () if trajectory is None else ("trajectory",)},
        )
        parts.run(request, settings).describe(as_json)
        return
    with Session.open(settings, quiet=as_json) as session:
        resident = session.load(model)
        given = None if label is None else np.array(label)
        asked = validated(SampleRequest, fields | {"num_samples": num_samples})
        job = asked.job({"label": given}, resident.description, UNLIMITED)
        columns = session.run(job, resident, f"sampling from {resident}")
    if output.endswith(".png"):
        write_whole(Path(output), png_grid(columns["x"], resident.description.likelihood))
    else:
        write_arrays(Path(output), columns)
    describe(resident, job, output, as_json)
