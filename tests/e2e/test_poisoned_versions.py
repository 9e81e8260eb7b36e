"""A version whose load fails in any way is a failed load and nothing more: the others are followed as ever."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_safetensors

from elbod.generators import checkpoint
from elbod_store import Draft, ModelStore
from tests.support import BITS, LEVELS, LINEAR, Server, build_generator, draft, install_family, publish, wait_for

# Raises what its `binarization` names, or waits until that file exists.
MODULE = """
import builtins, os, time
from elbod.generators.vae import VAE

class Moody(VAE):
    family = "moody"

    def prepare(self):
        super().prepare()
        mood = self.blueprint.binarization
        if mood.startswith("/"):
            while not os.path.exists(mood):
                time.sleep(0.01)
        elif mood != "calm":
            raise getattr(builtins, mood)("a mood")
"""
# Ends the thread that polls, as no exception of a load can.
LETHAL = """
import ctypes, threading
from elbod.generators.vae import VAE

class Lethal(VAE):
    family = "lethal"

    def prepare(self):
        super().prepare()
        for thread in threading.enumerate():
            if thread.name == "elbod-poll":
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
"""


def moody(mood: str, seed: int = 0) -> Draft:
    return replace(draft("moody", BITS, seed), family="moody", binarization=mood)


def another_shape() -> Draft:
    rows = {"x": np.zeros((2, 3, 3), np.float32), "reconstruction_at_mode": np.zeros(2)}
    return replace(draft("levels", LEVELS, 2), reference=save_safetensors(rows))


def bfloat16_scores() -> Draft:
    header = b'{"elbo_16":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    return replace(draft("levels", LEVELS, 2), calibration=len(header).to_bytes(8, "little") + header + b"\0\0\0\0")


def no_noise() -> Draft:
    generator = build_generator(LINEAR)
    generator.register_buffer("noise", torch.zeros((), dtype=torch.float64))
    return replace(draft("linear", LINEAR), weights=checkpoint.save(generator))


POISONS: dict[str, Callable[[], Draft]] = {
    "reference of another shape": another_shape,
    "bfloat16 calibration": bfloat16_scores,
    "no noise": no_noise,
    **{mood: lambda mood=mood: moody(mood) for mood in ("RuntimeError", "KeyError", "MemoryError", "SystemExit")},  # type: ignore[misc]
}


@dataclass(frozen=True)
class Place:
    store: ModelStore
    variables: dict[str, str]

    def start(self, start_server: Callable[..., Server], *flags: str) -> Server:
        variables = {"ELBOD_POLL_INTERVAL": "0.1", **self.variables}
        return start_server(self.store.objects.url, *flags, **variables)

    def promote(self, name: str, version: int) -> None:
        self.store.promote(name, "production", version, who="test", why="test")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A store with one promoted version of each model."""
    packages = tmp_path / "packages"
    install_family(packages, "moody", MODULE)
    variables = install_family(packages, "lethal", LETHAL)
    place = Place(ModelStore.open(tmp_path / "store"), variables)
    publish(place.store, "levels", LEVELS, 1)
    publish(place.store, "linear", LINEAR, 1)
    place.store.publish(moody("calm"))
    for name in ("levels", "linear", "moody"):
        place.promote(name, 1)
    return place


def served(http: httpx.Client, name: str) -> int:
    answer = http.post("/sample", json={"model": name, "num_samples": 1}).raise_for_status()
    version: int = answer.json()["model"]["version"]
    return version


@pytest.mark.parametrize("poison", POISONS)
def test_the_old_version_serves_the_failure_is_told_and_everything_else_is_followed(
    place: Place, start_server: Callable[..., Server], poison: str
) -> None:
    server = place.start(start_server, "--model", "levels")
    bad = POISONS[poison]()
    name, other = bad.name, "levels" if bad.name != "levels" else "linear"
    with httpx.Client(base_url=server.url, timeout=60) as http:
        assert {served(http, name), served(http, other)} == {1}
        place.store.publish(bad)
        place.promote(name, 2)
        wait_for(lambda: any(f"{name}@2" in problem for problem in http.get("/readyz").json()["problems"]))
        assert http.get("/readyz").status_code == 200
        assert served(http, name) == 1
        wait_for(lambda: f"{name}@2" in server.log.read_text())
        refused = http.post("/sample", json={"model": f"{name}@2"})
        assert refused.status_code in (500, 502)
        assert "/readyz" in refused.json()["detail"]
        wait_for(lambda: bool(re.search(r"load_failures_total\S* [1-9]", http.get("/metrics").text)))
        publish(place.store, other, LEVELS if other == "levels" else LINEAR, 3)
        place.promote(other, 2)
        wait_for(lambda: served(http, other) == 2)
        place.promote(name, 1)
        place.store.publish(replace(bad, name="levels", family="vae", **sound()))
        place.promote("levels", place.store.versions("levels")[-1])
        wait_for(lambda: served(http, "levels") == place.store.versions("levels")[-1])
        assert http.get("/healthz").status_code == 200


def sound() -> dict[str, object]:
    of = draft("levels", LEVELS, 5)
    fields = ("spec", "likelihood", "event_shape", "levels", "binarization", "weights", "reference", "calibration")
    return {name: getattr(of, name) for name in fields}


@pytest.mark.parametrize("poison", ["reference of another shape", "SystemExit"])
def test_a_server_that_starts_on_a_poisoned_default_is_ready_after_a_rollback(
    place: Place, start_server: Callable[..., Server], poison: str
) -> None:
    bad = place.store.publish(POISONS[poison]())
    place.promote(bad.name, bad.version)
    server = place.start(start_server, "--model", bad.name)
    with httpx.Client(base_url=server.url, timeout=60) as http:
        refused = http.get("/readyz")
        assert refused.status_code == 503
        assert any(f"{bad.name}@2" in problem for problem in refused.json()["problems"])
        place.promote(bad.name, 1)
        wait_for(lambda: http.get("/readyz").status_code == 200)
        assert served(http, bad.name) == 1


def test_a_load_that_does_not_end_holds_up_no_other_model(
    place: Place, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server, ended = place.start(start_server, "--model", "levels"), tmp_path / "ended"
    with httpx.Client(base_url=server.url, timeout=60) as http:
        assert {served(http, name) for name in ("levels", "linear", "moody")} == {1}
        place.store.publish(moody(str(ended)))
        place.promote("moody", 2)
        publish(place.store, "linear", LINEAR, 2)
        place.promote("linear", 2)
        wait_for(lambda: served(http, "linear") == 2)
        place.promote("linear", 1)
        wait_for(lambda: served(http, "linear") == 1)
        assert served(http, "moody") == 1
        ended.touch()
        wait_for(lambda: served(http, "moody") == 2)


def test_callers_of_a_model_that_loads_share_one_load_and_leave_the_server_to_others(
    place: Place, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    ended, statuses = tmp_path / "ended", list[int]()
    place.store.publish(moody(str(ended)))
    server = place.start(start_server, "--model", "levels")

    def call(seconds: str) -> None:
        body, headers = {"model": "moody@2", "num_samples": 1}, {"Request-Timeout": seconds}
        statuses.append(httpx.post(f"{server.url}/sample", json=body, headers=headers, timeout=90).status_code)

    impatient = [threading.Thread(target=call, args=("0.5",)) for _ in range(40)]
    patient = [threading.Thread(target=call, args=("60",)) for _ in range(40)]
    for thread in impatient + patient:
        thread.start()
    with httpx.Client(base_url=server.url, timeout=10) as http:
        for path in ("/healthz", "/readyz", "/version", "/", "/models"):
            assert http.get(path).status_code == 200
        assert served(http, "linear") == 1
        for thread in impatient:
            thread.join(30)
        assert statuses == [504] * 40
        ended.touch()
        for thread in patient:
            thread.join(60)
        assert statuses[40:] == [200] * 40
        wait_for(lambda: "elbod_loads_total 3.0" in http.get("/metrics").text)


def test_a_dead_poll_thread_ends_liveness(place: Place, start_server: Callable[..., Server]) -> None:
    server = place.start(start_server, "--model", "levels")
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    place.store.publish(replace(draft("lethal", LEVELS), family="lethal"))
    httpx.post(f"{server.url}/sample", json={"model": "lethal"}, timeout=60)
    wait_for(lambda: httpx.get(f"{server.url}/healthz", timeout=10).status_code == 500)
