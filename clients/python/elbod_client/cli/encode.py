"""`elboctl encode`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from elbod_client.cli import options


def encode(
    data: Annotated[Path, typer.Option(help="Rows: .npy, .npz (x), .parquet, .csv, or a folder of images.")],
    output: Annotated[Path, typer.Option(help="Parameters of q(z|x), KL and draws, as .npz.")],
    num_samples: Annotated[int, typer.Option(min=0, help="Draws of z a row.")] = 0,
    seed: options.Seed = None,
    first_index: options.FirstIndex = 0,
    binarize: options.Binarize = None,
    label: options.Label = None,
    num_steps: options.NumSteps = None,
    level: options.Level = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Pixels that images are cropped and resized to.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    model: options.Model = None,
    url: options.Url = None,
    timeout: options.Timeout = 60.0,
    as_json: options.AsJson = False,
) -> None:
    """Encode the rows of a file.

    Example: elboctl encode --data rows.npy --output latents.npz
    """
    options.check_binarize(binarize)
    if output.suffix != ".npz":
        raise typer.BadParameter(f"--output {output}: the ending must be .npz")
    from elbod_client import _merging
    from elbod_client.cli import outputs, sources
    from elbod_client.cli.growing import Growing

    source = sources.open_rows(data, image_size)
    outputs.check_folder(output)
    with options.connect(url, model, timeout) as client, Growing(output, source.rows) as arrays:
        parts = client.stream_encode(
            source.batches(),
            num_samples=num_samples,
            seed=seed,
            first_index=first_index,
            binarize=binarize,  # type: ignore[arg-type]
            label=label,
            num_steps=num_steps,
            level=level,
            progress=not (quiet or as_json),
        )
        for found in parts:
            columns: dict[str, Any] = {name: getattr(found, name) for name in ("z", "kl", "kl_per_dimension", "log_q")}
            columns |= found.parameters
            for name in _merging.SHARED & columns.keys():
                arrays.whole(name, columns.pop(name))
            arrays.append({name: values for name, values in columns.items() if values is not None})
        arrays.finish()
    described = {
        "model": str(found.model),
        "seed": found.seed,
        "rows": source.rows,
        "output": str(output),
        "fingerprint": found.fingerprint,
    }
    options.say([f"{source.rows:,} rows of {data} under {found.model}: {output}"], described, as_json)
