"""`elbod encode`: q(z|x) of a whole set of rows, on this machine, without a server."""

from pathlib import Path
from typing import Annotated

import typer

from elbod.cli.engines import check_engine


def encode(
    model: Annotated[str, typer.Option(help="Model reference: name, name@alias or name@version.")],
    output: Annotated[str, typer.Option(help="Parameters of q(z|x), KL and draws: .npz, or a folder of parts.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of images or IDX files, .npy, .npz, .csv, .parquet or a named set; default: own test rows."
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=0, help="Draws of z a row.")] = 0,
    binarize: Annotated[str | None, typer.Option(help="threshold or stochastic: x in [0, 1] to bits.")] = None,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Passes of a draw, of a model with levels.")] = None,
    level: Annotated[int | None, typer.Option(min=0, help="Where z stands, of a model with levels.")] = None,
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
    """Encode rows with a published model. A conditional one is given the data's labels.

    The numbers are those of POST /encode with the same seed. A folder is written part by part: interrupted, the same
    command goes on with the parts that are not there.

    Example: elbod encode --model digits --output latents.npz
    """
    if binarize not in (None, "threshold", "stochastic"):
        raise typer.BadParameter("--binarize is threshold or stochastic")
    in_parts = check_engine(engine, actors, part_rows, output)
    from elbod.cli.tables import check_output, write_arrays
    from elbod.settings import load_settings

    settings = load_settings(store=store, device=device)
    if not in_parts:
        check_output(Path(output), (".npz",))
    # torch takes seconds to import: only now, with the configuration checked.
    from elbod.cli.scoring import Session, describe, labels_of
    from elbod.engine.jobs import Verb
    from elbod.requests.checks import UNLIMITED, check_count
    from elbod.requests.verbs import EncodeRequest, validated
    from elbod.training.held_out import rows_to_score

    check_count("--num-samples", num_samples, settings.max_num_samples)
    fields = {
        "seed": seed,
        "first_index": first_index,
        "num_samples": num_samples,
        "binarize": binarize,
        "num_steps": num_steps,
        "level": level,
    }
    if in_parts:
        from elbod.cli import parts

        request = parts.Request(
            verb=Verb.ENCODE,
            model=model,
            output=output,
            engine=engine,
            actors=actors,
            part_rows=part_rows,
            data=data,
            quiet=as_json,
            fields=fields,
        )
        parts.run(request, settings).describe(as_json)
        return
    with Session.open(settings, quiet=as_json) as session:
        resident = session.load(model)
        found = rows_to_score(resident.manifest, data, binarized=binarize is not None)
        described = resident.description
        labelled = described.conditional and not described.has_null_label
        label = labels_of(found, resident, None) if labelled else None
        job = validated(EncodeRequest, fields).job({"x": found.x, "label": label}, described, UNLIMITED)
        columns = session.run(job, resident, f"encoding with {resident}")
    write_arrays(Path(output), columns | dict(described.posterior_shared))
    describe(resident, job, f"{found.origin}: {output}", as_json)
