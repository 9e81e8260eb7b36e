"""`elboctl score`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from elbod_client.cli import options


def score(
    data: Annotated[Path, typer.Option(help="Rows: .npy, .npz (x), .parquet, .csv, or a folder of images.")],
    output: Annotated[Path, typer.Option(help="Every row's scores: .parquet, .csv, .jsonl or .npz.")],
    num_samples: Annotated[int, typer.Option(min=1, help="S, draws of the ELBO a row.")] = 1,
    importance_samples: Annotated[int, typer.Option(min=0, help="K, draws of the tighter bound a row.")] = 0,
    seed: options.Seed = None,
    first_index: options.FirstIndex = 0,
    binarize: options.Binarize = None,
    label: options.Label = None,
    num_steps: options.NumSteps = None,
    num_levels: Annotated[
        int | None, typer.Option(min=1, help="Sampled levels a draw in place of a whole path, of a model with levels.")
    ] = None,
    marginal: Annotated[
        str | None, typer.Option(help="labels: score the sum over labels in place of the null label.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Pixels that images are cropped and resized to.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    model: options.Model = None,
    url: options.Url = None,
    timeout: options.Timeout = 60.0,
    as_json: options.AsJson = False,
) -> None:
    """Score the rows of a file, and go on where an interrupted run of the same command stopped.

    Example: elboctl score --data rows.npy --output scores.parquet --num-samples 16
    """
    options.check_binarize(binarize)
    options.check_marginal(marginal)
    import numpy as np

    from elbod_client import ElbodError, _places
    from elbod_client.cli import outputs, sources

    outputs.check_table(output)
    source = sources.open_rows(data, image_size)
    asked: dict[str, Any] = {
        "data": outputs.content_of(data),
        "batch": source.batch,
        "image_size": image_size,
        "num_samples": num_samples,
        "importance_samples": importance_samples,
        "seed": seed,
        "first_index": first_index,
        "binarize": binarize,
        "label": label,
        "num_steps": num_steps,
        "num_levels": num_levels,
        "marginal": marginal,
        "model": model,
    }
    parts = outputs.Parts(output, asked)
    starts = list(range(0, source.rows, source.batch))
    # Parts are written in order.
    done = next((start for start in starts if not parts.done(start)), source.rows)
    if done and not (quiet or as_json):
        typer.echo(f"{done:,} of {source.rows:,} rows are there already", err=True)
    with options.connect(url, parts.chosen.get("model", model), timeout) as client:
        stream = client.stream_elbo(
            source.batches(done),
            num_samples=num_samples,
            num_importance_samples=importance_samples,
            seed=parts.chosen.get("seed", seed),
            first_index=first_index + done,
            binarize=binarize,  # type: ignore[arg-type]
            label=label,
            num_steps=num_steps,
            num_levels=num_levels,
            marginal=marginal,  # type: ignore[arg-type]
            progress=not (quiet or as_json),
        )
        try:
            for start, scores in zip(range(done, source.rows, source.batch), stream, strict=True):
                if not parts.chosen:
                    parts.begin(model=str(scores.model), seed=scores.seed)
                columns = {name: values for name, values in scores._arrays().items() if values.ndim == 1}
                index = first_index + start + np.arange(len(scores.elbo))
                parts.write(start, {"index": index, **columns})
        except ElbodError as error:
            raise _places.moved(error, done) from error.__cause__
    table = parts.collect(starts)
    outputs.write_table(output, table)
    described = _summary(table["elbo"]) | {
        "model": parts.chosen["model"],
        "seed": parts.chosen["seed"],
        "output": str(output),
    }
    parts.remove()
    spread = described["standard_error"]
    mean = f"mean ELBO {described['mean']:.3f} ± {'-' if spread is None else f'{spread:.3f}'} nats"
    lines = [
        f"{described['rows']:,} rows of {data} under {described['model']}, seed {described['seed']}: {mean}, {output}"
    ]
    options.say(lines, described, as_json)


def _summary(elbo: Any) -> dict[str, Any]:
    """The mean and its standard error over rows, sd(rows, ddof=1)/sqrt(n)."""
    n = len(elbo)
    error = float(elbo.std(ddof=1) / n**0.5) if n > 1 else None
    return {"rows": n, "mean": float(elbo.mean()), "standard_error": error}
