"""`elbod train`: train by a recipe, or on data of one's own, and publish."""

import os
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class TrainCommand(TyperCommand):
    """The command line, in which the run of `--resume` may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        after = [*args, "-"][1:]
        bare = [arg == "--resume" and following.startswith("-") for arg, following in zip(args, after, strict=True)]
        return super().parse_args(ctx, ["--resume=" if wrong else arg for arg, wrong in zip(args, bare, strict=True)])


def train(
    recipe: Annotated[str | None, typer.Option(help="A recipe; `elbod recipes` lists them.")] = None,
    family: Annotated[str | None, typer.Option(help="Own data: the family, for example vae or ppca.")] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="Own data: for example bernoulli, discretized_logistic or gaussian.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the store.")] = None,
    data: Annotated[
        str | None, typer.Option(help="A folder of images or IDX files, .npy, .npz, .csv or .parquet.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Visits of every training row.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the recipe.")
    ] = None,
    publish_every: Annotated[
        int | None,
        typer.Option(min=1, help="Publish the weights of every Nth epoch too; the final version has the best."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Retire all but the newest N versions and those with an alias.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Point this alias at the final version.")] = None,
    gate: Annotated[
        bool,
        typer.Option("--gate", help="Move the alias only to what is not worse than the best that ever held it."),
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Train again whenever the data change, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between looks of --watch.")] = 10.0,
    save_every: Annotated[
        float, typer.Option(min=0, help="Minutes between saved states of the run; 0: after every epoch.")
    ] = 10.0,
    resume: Annotated[
        str | None,
        typer.Option(metavar="[RUN]", help="Go on with this run, or with the newest unfinished one of this training."),
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: processes of a Ray cluster.")] = "local",
    processes: Annotated[int | None, typer.Option(min=1, help="Of --engine ray: how many train together.")] = None,
    store: Annotated[str | None, typer.Option(help="URL or folder of the model store.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Decides everything random.")] = 0,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
) -> None:
    """Train a generator and publish it as a new version.

    Flags win over ELBOD_* variables, those over elbod.toml. A named run knows its recipe, data and seed; a worker that
    watches resumes by itself. Under `torchrun --nproc-per-node N`, and by `--engine ray --processes N`, N processes
    train together.

    Example: elbod train --recipe digits --alias production
    """
    named_run = bool(resume) and recipe is None and family is None
    if not named_run:
        if (recipe is None) == (family is None) or (family is None) != (likelihood is None):
            raise typer.BadParameter("give either --recipe, or --family and --likelihood with --data")
        if family is not None and data is None:
            raise typer.BadParameter("--family needs --data")
    elif likelihood or name or data or epochs or settings or publish_every or seed:
        raise typer.BadParameter("a run resumed by its id alone takes --store, --device, --alias, --keep, --save-every")
    if gate and alias is None and not named_run:
        raise typer.BadParameter("--gate needs --alias: it decides whether that is moved")
    if watch and (resume is not None or "WORLD_SIZE" in os.environ):
        raise typer.BadParameter("--watch resumes by itself, and trains in one process")
    if engine not in ("local", "ray") or (engine == "local" and processes is not None) or (engine == "ray" and watch):
        raise typer.BadParameter("--engine is local or ray; --processes is of ray, and --watch of local")

    try:
        from elbod.settings import load_settings

        configured = load_settings(store=store, device=device)
        if engine == "ray":
            from elbod.scale.cluster import require_ray

            require_ray("--engine ray")
        # torch takes seconds to import: only now, with the usage and the configuration checked.
        from dataclasses import replace

        from elbod.training import recipes
        from elbod.training.identity import Command
        from elbod.training.progress import console_listener
        from elbod.training.run import unfinished
        from elbod.training.worker import run_training
        from elbod_store import ModelStore

        if named_run:
            assert resume is not None
            command = Command.of(unfinished(ModelStore.open(configured.store), resume))
            made, name, seed, publish_every = command.recipe, command.name, command.seed, command.publish_every
            alias, gate, keep = alias or command.alias, gate or command.gated, keep or command.keep
        else:
            if recipe is not None:
                base = recipes.recipe(recipe)
                base = base if data is None else replace(base, data=data)
            else:
                assert family is not None
                assert likelihood is not None
                assert data is not None
                base = recipes.custom(family, likelihood, data)
            made = recipes.override(base, [*(settings or []), *([] if epochs is None else [f"epochs={epochs}"])])
        options: dict[str, Any] = {
            "name": name or made.name,
            "seed": seed,
            "device": configured.device,
            "alias": alias,
            "gated": gate,
            "publish_every": publish_every,
            "keep": keep,
            "save_every": 60 * save_every,
        }
        from_run = True if resume == "" else resume or False
        if engine == "ray":
            from elbod.scale.training import train as train_on_ray

            train_on_ray(made, configured.store, processes or 1, from_run, options)
            return
        opened, progress = ModelStore.open(configured.store), console_listener()
        options["progress"] = progress
        if watch:
            from elbod.training.watch import train_if_changed, train_on_change

            train_on_change(lambda: train_if_changed(made, opened, **options), made.data, progress, interval=interval)
        else:
            run_training(made, opened, resume=from_run, **options)
    except KeyboardInterrupt as interrupt:
        from elbod.training.errors import Stopped

        if not isinstance(interrupt, Stopped):
            typer.echo("interrupted: what was published stays, nothing else was", err=True)
            raise typer.Exit(130) from None
        if str(interrupt):
            typer.echo(str(interrupt), err=True)
        raise typer.Exit(128 + interrupt.number) from None
