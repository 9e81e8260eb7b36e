"""The Ray cluster that work goes to: one that is there, or one of this machine; and whether its nodes are alike."""

import contextlib
import importlib.util
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from elbod.errors import StartupError

# A node that has not answered a question by then is taken for lost.
_PATIENCE = 300.0
_REACH_PATIENCE = 10.0


@dataclass(frozen=True)
class Cluster:
    """What a connected process knows of its cluster; `nodes` are ids by address of the nodes that take work, and
    `gpu_nodes` those of them with a GPU.
    """

    address: str
    nodes: dict[str, str]
    gpu_nodes: dict[str, str]
    cpus: int
    gpus: int

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"Ray cluster {self.address}: {len(self.nodes)} nodes, {self.cpus} cores{gpus}"


def require_ray(what: str) -> None:
    """Raises StartupError if Ray is not installed; `what` needs it."""
    if importlib.util.find_spec("ray") is None:
        raise StartupError(f"{what} needs Ray: pip install 'elbod[ray]'")


@contextlib.contextmanager
def connect(what: str, *, dashboard: bool = False) -> Iterator[Cluster]:
    """Be a driver of the cluster at RAY_ADDRESS, of the one that `ray start` began here, or of a new one of this
    machine, which ends with the context.

    Ray's usage statistics are off unless RAY_USAGE_STATS_ENABLED says otherwise, and a new cluster takes work only
    from who has its token (RAY_AUTH_MODE). What workers print appears here. With `dashboard`, a new cluster has one on
    the loopback interface, which Ray Train asks. Raises StartupError.
    """
    require_ray(what)
    _reach(os.environ.get("RAY_ADDRESS", ""))
    _quieten()
    import ray

    try:
        ray.init(logging_level=logging.ERROR, include_dashboard=dashboard)
    except Exception as error:
        # ConnectionError, RuntimeError, ValueError and Ray's own, by what is wrong with the cluster.
        where = os.environ.get("RAY_ADDRESS")
        what = f"join the Ray cluster at {where}" if where else "start or join a Ray cluster"
        hint = "; a cluster wants its own token (RAY_AUTH_TOKEN_PATH), Ray and Python"
        raise StartupError(f"cannot {what}: {last_line(error)}{hint}") from error
    try:
        yield _cluster()
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself would try for minutes. Raises StartupError."""
    place = re.fullmatch(r"(?:ray://)?\[?([^\]/]+)\]?:(\d+)", address)
    if place is None:
        return
    try:
        socket.create_connection((place[1], int(place[2])), timeout=_REACH_PATIENCE).close()
    except OSError as error:
        raise StartupError(f"cannot reach the Ray cluster at {address} (RAY_ADDRESS): {error.strerror}") from error


def _quieten() -> None:
    """Before Ray is imported: it reads these once."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Serve says of itself is in Ray's log files; its advice is for whoever programs with Ray.
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def _cluster() -> Cluster:
    import ray

    total = ray.cluster_resources()
    return Cluster(
        address=ray.get_runtime_context().gcs_address,
        nodes=_nodes("CPU", "GPU"),
        gpu_nodes=_nodes("GPU"),
        cpus=int(total.get("CPU", 0)),
        gpus=int(total.get("GPU", 0)),
    )


def _nodes(*resources: str) -> dict[str, str]:
    """Those alive that have any of the resources."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    able = [node for node in alive if any(node["Resources"].get(name) for name in resources)]
    return {f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}": node["NodeID"] for node in able}


def ask_every_node(
    cluster: Cluster, question: Callable[..., Any], *arguments: Any, gpu: bool = False
) -> dict[str, Any]:
    """The answers by address of the node, asked side by side; with `gpu` of those that have one, with one each.

    Raises StartupError naming a node that cannot answer.

    `question` travels by value if it is defined inside a function, so that a node without elbod can answer it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {
        address: ray.remote(question)
        .options(
            num_cpus=0,
            num_gpus=1 if gpu else 0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
            max_retries=1,
        )
        .remote(*arguments)
        for address, node in (cluster.gpu_nodes if gpu else cluster.nodes).items()
    }
    answers = {}
    for address, answer in asked.items():
        try:
            answers[address] = ray.get(answer, timeout=_PATIENCE)
        except Exception as error:
            # GetTimeoutError, a lost worker or node, or what the question raised, wrapped by its own type.
            if address not in _nodes("CPU", "GPU"):
                # It ended a moment ago, and will get no work.
                continue
            raise StartupError(f"node {address} cannot take work: {last_line(error)}") from error
    return answers


def check_versions(cluster: Cluster) -> None:
    """Raises StartupError naming the first node whose elbod, torch or numpy is another one than here."""

    def versions() -> dict[str, str]:
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in ("elbod", "torch", "numpy"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        return found

    here = versions()
    for address, there in ask_every_node(cluster, versions).items():
        wrong = [f"{name} {there[name]}, here it is {here[name]}" for name in here if there[name] != here[name]]
        if wrong:
            raise StartupError(
                f"node {address} has {'; '.join(wrong)}: its bytes would differ; install the same versions everywhere"
            )


def agreed(answers: dict[str, str]) -> str:
    """The fingerprint of all nodes. Raises StartupError naming two that differ."""
    first, *others = answers.items()
    for address, fingerprint in others:
        if fingerprint != first[1]:
            raise StartupError(
                f"node {address} computes as {fingerprint}, node {first[0]} as {first[1]}: their bytes would differ; "
                "use nodes of one kind, or set ATEN_CPU_CAPABILITY alike on all of them"
            )
    return first[1]


def uses_gpu(cluster: Cluster, device: str) -> bool:
    """Whether every process gets a GPU: when it is asked for, and by default where the cluster has some.

    Raises StartupError if it is asked for and there is none.
    """
    if device.startswith("cuda") and not cluster.gpus:
        raise StartupError(f"--device {device}: no node of the cluster has a GPU")
    return device.startswith("cuda") or (device == "auto" and cluster.gpus > 0)


def last_line(error: BaseException | str) -> str:
    """The last line that says something: Ray's errors begin with a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
