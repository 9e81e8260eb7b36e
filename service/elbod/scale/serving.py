"""The service as replicas of Ray Serve: each the application of one worker, with its own engine and its own look at
the store. Ray starts and ends them, watches them, and brings them requests.

`elbod serve --engine ray` runs this; `serve deploy` takes `elbod.scale.serving:application` by a config file.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elbod.api.logs import configure_logging
from elbod.api.server import bind, refuse_open_door
from elbod.errors import StartupError
from elbod.scale.cluster import check_versions, connect, last_line, uses_gpu
from elbod.scale.metrics import forget
from elbod.settings import Settings, load_settings

_APPLICATION = "elbod"
# A replica's own queue is bounded in row-draws and bytes, and answers 429; this only keeps one from starving others.
_MOST_REQUESTS = 512
_LOOK_EVERY = 0.2
# Of requests under way in a replica, when Ray adds one.
_TARGET_REQUESTS = 32


def application(args: dict[str, Any]) -> Any:
    """The Serve application of these settings, for a Serve config. Raises StartupError.

    It may be built on a node that has neither the store nor the keys file: replicas open both.
    """
    settings = load_settings(**args)
    _refuse_open_ports(settings)
    return _deployment(settings).bind()


def serve(settings: Settings, replicas: str, announce: Callable[[str], None]) -> int:
    """Serve by so many replicas ("3", or "2:8" by load) until SIGTERM or SIGINT; the exit code by the convention.

    `announce` gets the URL once replicas answer. Raises StartupError.
    """
    least, most = counts(replicas)
    refuse_open_door(settings)
    _refuse_open_ports(settings)
    if settings.store == "memory://":
        raise StartupError("memory:// lives inside one process: use a store on disk or in S3")
    # Replicas may run elsewhere than in this folder.
    found = {"store": settings.store if "://" in settings.store else str(Path(settings.store).absolute())}
    keys = {} if settings.keys_file is None else {"keys_file": settings.keys_file.absolute()}
    with bind(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
    settings = settings.model_copy(update=found | keys | {"port": port})
    with connect("--engine ray") as cluster:
        check_versions(cluster)
        from ray import serve as ray_serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        if ray_serve.status().proxies:
            raise StartupError(
                "Ray Serve runs on this cluster already, at a port of its own: use `serve deploy` (see deploy/ray), "
                "or another cluster"
            )
        ray_serve.start(proxy_location="EveryNode", http_options={"host": settings.host, "port": port})
        gpu = uses_gpu(cluster, settings.device)
        if least > (cluster.gpus if gpu else cluster.cpus):
            raise StartupError(
                f"--replicas {replicas}: each takes a {'GPU' if gpu else 'core'}, and this is a {cluster}"
            )
        options: dict[str, Any] = {"num_replicas": least}
        if most > least:
            options = {
                "autoscaling_config": {
                    "min_replicas": least,
                    "max_replicas": most,
                    "target_ongoing_requests": _TARGET_REQUESTS,
                }
            }
        if gpu:
            options["ray_actor_options"] = {"num_cpus": 1, "num_gpus": 1}
        number = _Number()
        try:
            target = ray_serve.RunTarget(_deployment(settings).options(**options).bind(), _APPLICATION, "/")
            ray_serve.run_many([target], wait_for_applications_running=False)
            if _started(number):
                host = f"[{settings.host}]" if ":" in settings.host else settings.host
                announce(f"http://{host}:{port}")
                number.wait()
        finally:
            # They finish what they admitted.
            ray_serve.delete(_APPLICATION)
            ray_serve.shutdown()
            forget()
    return 0 if number.value == signal.SIGTERM else 128 + signal.SIGINT


def _started(number: "_Number") -> bool:
    """Wait until replicas answer; False if a signal came before. Raises StartupError if they cannot start."""
    from ray import serve as ray_serve

    while not number.wait(_LOOK_EVERY):
        state = ray_serve.status().applications[_APPLICATION]
        if state.status == "RUNNING":
            return True
        if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise StartupError(f"no replica could start: {last_line(state.message)}; the log above says why")
    return False


def counts(replicas: str) -> tuple[int, int]:
    """(least, most) of "3" or "2:8". Raises StartupError."""
    least, colon, most = replicas.partition(":")
    if not (least.isdigit() and (most.isdigit() or not colon)) or not 1 <= int(least) <= int(most or least):
        raise StartupError(f"--replicas is a number, or least:most such as 2:8, not {replicas!r}")
    return int(least), int(most or least)


def _refuse_open_ports(settings: Settings) -> None:
    """With HAProxy every replica listens on every interface. Raises StartupError."""
    open_to_all = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    if open_to_all and settings.keys_file is None and not settings.insecure:
        raise StartupError(
            "RAY_SERVE_ENABLE_HA_PROXY=1 opens a port of every replica on every interface: give --keys-file "
            "(see `elbod keys`), or --insecure behind a firewall"
        )


def _deployment(settings: Settings) -> Any:
    from ray import serve as ray_serve

    def build() -> Any:
        from elbod.api.app import create_app
        from elbod.scale.metrics import Reporter

        configure_logging()
        app = create_app(settings)
        app.state.reporter = Reporter(app.state.service.metrics)
        app.state.reporter.start()
        return app

    class Replica:
        """What Serve asks of a replica beside its requests; travels by value, as `build` does."""

        async def check_health(self) -> None:
            """Called by Serve now and then; a replica that raises is replaced."""
            service = self.app.state.service  # type: ignore[attr-defined]
            if not service.healthy:
                raise RuntimeError("the compute thread is stuck or has ended")

        def __del__(self) -> None:
            """Called by Serve after the drain."""
            self.app.state.reporter.stop()  # type: ignore[attr-defined]

    return ray_serve.deployment(
        ray_serve.ingress(build)(Replica),
        name=_APPLICATION,
        max_ongoing_requests=_MOST_REQUESTS,
        # Longer than what was admitted may take.
        graceful_shutdown_timeout_s=settings.drain_timeout + 10,
        health_check_period_s=10,
        health_check_timeout_s=60,
        ray_actor_options={"num_cpus": 1},
        # The application writes its own.
        logging_config={"enable_access_log": False},
    )


class _Number:
    """The first SIGTERM or SIGINT; a second one ends the process at once."""

    def __init__(self) -> None:
        self.value = 0
        self._arrived = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: object) -> None:
        if self.value:
            os._exit(128 + number)
        self.value = number
        self._arrived.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether one has come, within that time."""
        return self._arrived.wait(seconds)
