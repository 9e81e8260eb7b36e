"""Training under Ray Train: its workers are the processes that `torchrun` would start, and publish as these do."""

import signal
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from elbod.errors import ElbodError, StartupError
from elbod.scale.cluster import check_versions, connect, uses_gpu
from elbod.training.errors import CannotResume, LostProcess, Stopped, TrainingError
from elbod.training.progress import console_listener
from elbod.training.recipes import Recipe
from elbod.training.run import unfinished
from elbod.training.worker import run_training
from elbod_store import ModelStore, StoreError

# A group that lost a process or a node begins again so often, where its run was saved last.
_RETRIES = 3
# As under `torchrun`: the others wait while the first one evaluates.
_TIMEOUT_SECONDS = 7_200


class _Memory:
    """What outlives a group of workers: the run that it drives, and what ended it for good. An actor."""

    def __init__(self) -> None:
        self.run: str | None = None
        self.failure: str | None = None

    def begin(self, run: str) -> None:
        self.run = run

    def fail(self, failure: str) -> None:
        self.failure = failure

    def recall(self) -> tuple[str | None, str | None]:
        return self.run, self.failure


def train(recipe: Recipe, store: str, processes: int, resume: str | bool, options: dict[str, Any]) -> None:
    """`run_training` by so many processes of a Ray cluster; `options` are its other arguments.

    A lost process costs the steps since the run's last saved state. Raises TrainingError,
    StartupError, and Stopped at Ctrl-C.
    """
    if store == "memory://":
        raise StartupError("memory:// lives inside one process: use a store on disk or in S3")
    if "://" not in store:
        store = str(Path(store).absolute())
    if Path(recipe.data).exists():
        recipe = replace(recipe, data=str(Path(recipe.data).absolute()))
    with (
        connect("--engine ray", dashboard=True) as cluster,
        tempfile.TemporaryDirectory() as folder,
    ):
        check_versions(cluster)
        import ray
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        memory = ray.remote(_Memory).options(num_cpus=0).remote()
        gpu = uses_gpu(cluster, options["device"])
        if processes * recipe.threads > cluster.cpus or (gpu and processes > cluster.gpus):
            each = f"{recipe.threads} cores{' and a GPU' if gpu else ''}"
            raise StartupError(f"--processes {processes}: each takes {each}, this is a {cluster}")
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "recipe": recipe,
                "store": store,
                "resume": resume,
                "memory": memory,
                "options": options,
            },
            torch_config=TorchConfig("cpu:gloo,cuda:nccl" if gpu else "cpu:gloo", timeout_s=_TIMEOUT_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=processes, use_gpu=gpu, resources_per_worker={"CPU": recipe.threads}
            ),
            run_config=RunConfig(
                storage_path=folder,
                failure_config=FailureConfig(max_failures=_RETRIES),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            _fit(trainer)
        except KeyboardInterrupt as interrupt:
            run, _ = ray.get(memory.recall.remote())
            again = f"`elbod train --engine ray --resume {run}` goes on from the newest saved state"
            raise Stopped(f"interrupted: {again}" if run else "", signal.SIGINT) from interrupt
        except Exception as error:
            # Ray Train's own, with a traceback of every worker.
            run, _ = ray.get(memory.recall.remote())
            again = f"; `elbod train --engine ray --resume {run}` goes on" if run else ""
            raise StartupError(f"training was lost {_RETRIES + 1} times{again}") from error
        _, failure = ray.get(memory.recall.remote())
        if failure is not None:
            raise TrainingError(failure)


def _fit(trainer: Any) -> None:
    """On a thread of its own: on the main one Ray Train answers Ctrl-C by itself, with exit code 0."""
    ended: Future[None] = Future()

    def run() -> None:
        try:
            trainer.fit()
            ended.set_result(None)
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, name="elbod-ray-train", daemon=True).start()
    ended.result()


def _work(config: dict[str, Any]) -> None:
    """One process of the group. What no new attempt can mend is remembered instead of raised."""
    import ray

    memory = config["memory"]
    run, failure = ray.get(memory.recall.remote())
    if failure is not None:
        return
    store = ModelStore.open(config["store"])
    if run is not None:
        try:
            unfinished(store, run)
        except CannotResume:
            # It ended, and then the process that was to say so.
            return
    try:
        run_training(
            config["recipe"],
            store,
            resume=run or config["resume"],
            progress=console_listener(),
            began=lambda run: ray.get(memory.begin.remote(run)),
            **config["options"],
        )
    except LostProcess:
        raise
    except (ElbodError, StoreError, TrainingError) as error:
        ray.get(memory.fail.remote(str(error)))
        raise
