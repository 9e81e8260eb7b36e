"""The example package: installed as anybody would, trained and served by the real command, exact to rounding."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors
from sklearn.datasets import load_wine

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint, Generator
from elbod.generators.evaluation import draw_terms
from elbod.generators.testing import GeneratorTests
from elbod_store import ModelStore
from tests.support import ELBOD, HANG, Server

EXAMPLE = Path(__file__).parents[2] / "examples/factor_analysis"
README = (EXAMPLE / "README.md").read_text()
DRAWS = 9


def install(source: Path, target: Path) -> None:
    """Metadata and module into a folder, from what is on this machine alone."""
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", target, source], check=True)


def with_packages(*folders: Path) -> dict[str, str]:
    paths = [str(folder) for folder in folders] + [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}


def elbod(
    folder: Path, variables: dict[str, str], *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [ELBOD, *arguments], cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=HANG
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("packages")
    install(EXAMPLE, target)
    return target


@dataclass(frozen=True)
class Truth:
    """The published weights, and the marginal N(mu, WW' + Psi) by the D x D covariance."""

    W: NDArray[np.float64]
    mu: NDArray[np.float64]
    psi: NDArray[np.float64]

    @classmethod
    def published(cls, store: ModelStore, name: str) -> "Truth":
        tensors = load_safetensors(store.read(store.resolve(name).weights))
        return cls(tensors["loadings"], tensors["location"], tensors["noise"] ** 2)

    @property
    def covariance(self) -> NDArray[np.float64]:
        return self.W @ self.W.T + np.diag(self.psi)

    def log_evidence(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        centered = x - self.mu
        _, log_det = np.linalg.slogdet(2 * np.pi * self.covariance)
        distance = (centered * np.linalg.solve(self.covariance, centered.T).T).sum(1)
        exact: NDArray[np.float64] = -0.5 * (log_det + distance)
        return exact


@pytest.fixture(scope="module")
def simulated() -> NDArray[np.float64]:
    """(1000, 6) rows of two factors, in units a million times apart."""
    rng = np.random.default_rng(0)
    W, units = rng.normal(size=(6, 2)), np.array([1e-3, 1.0, 1.0, 1.0, 10.0, 1e3])
    noise = rng.uniform(0.2, 0.8, 6) * rng.normal(size=(1000, 6))
    return np.asarray((rng.normal(size=(1000, 2)) @ W.T + noise + 5) * units)


@pytest.fixture(scope="module")
def trained(packages: Path, simulated: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store `elbod-store`, in which the model `rows` was trained by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "rows.npy", simulated)
    flags = "--family factor_analysis --likelihood gaussian --data rows.npy --set latent_dim=2 --alias production"
    out = elbod(folder, with_packages(packages), "train", *flags.split()).stdout
    assert "exact log p(x)" in out
    return folder


class TestConformance(GeneratorTests):
    @pytest.fixture
    def generator(self, packages: Path, simulated: Any, monkeypatch: pytest.MonkeyPatch) -> Generator:
        monkeypatch.syspath_prepend(str(packages))
        spec = {"latent_dim": 2, "iterations": 50}
        generator = checkpoint.build(
            Blueprint(family="factor_analysis", spec=spec, likelihood="gaussian", event_shape=(6,))
        )
        generator.initialize(torch.from_numpy(simulated))
        return generator

    @pytest.fixture
    def rows(self, simulated: Any) -> torch.Tensor:
        return torch.from_numpy(simulated[:12])


def test_the_service_gives_the_exact_evidence(
    trained: Path, packages: Path, simulated: Any, start_server: Callable[..., Server]
) -> None:
    """elbo, iwae and log_evidence are log N(x; mu, WW' + Psi), whatever was drawn."""
    truth = Truth.published(ModelStore.open(trained / "elbod-store"), "rows")
    server = start_server(trained / "elbod-store", **with_packages(packages))
    x = simulated[:50]
    for seed in (0, 1):
        body = {"x": x.tolist(), "seed": seed, "num_samples": 2, "num_importance_samples": DRAWS}
        scores = httpx.post(f"{server.url}/elbo", json=body, timeout=60).json()
        exact = truth.log_evidence(x)
        for name in ("elbo", "iwae", "log_evidence"):
            np.testing.assert_allclose(scores[name], exact, rtol=1e-9, atol=1e-8, err_msg=name)
        assert scores["effective_sample_size"] == pytest.approx([DRAWS] * 50, abs=1e-6)
        assert scores["gap_kind"] == "exact"
        assert scores["gap"] == pytest.approx([0] * 50, abs=1e-7)


def test_every_draw_has_the_weight_log_p_of_x(
    trained: Path, packages: Path, simulated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log p(x, z) - log q(z|x) = log p(x) for each of many z, since q is the posterior."""
    monkeypatch.syspath_prepend(str(packages))
    store = ModelStore.open(trained / "elbod-store")
    manifest = store.resolve("rows")
    generator = checkpoint.load(checkpoint.blueprint_of(manifest), store.read(manifest.weights))
    x = torch.from_numpy(simulated[:20]).repeat_interleave(DRAWS, 0)
    noise = 3 * torch.randn(len(x), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw_terms(generator, generator.encode(x), x, lambda _: noise)
    weights = (drawn.reconstruction - drawn.path.sampled.kl).numpy().reshape(20, DRAWS)
    exact = Truth.published(store, "rows").log_evidence(simulated[:20])
    np.testing.assert_allclose(weights, np.repeat(exact[:, None], DRAWS, 1), rtol=1e-9, atol=1e-8)


def test_the_fit_is_a_stationary_point(trained: Path) -> None:
    """The likelihood of its training rows has no slope in W and psi, in units of the noise, and psi is no constant."""
    from elbod.training import datasets
    from elbod.training.splits import split

    truth = Truth.published(ModelStore.open(trained / "elbod-store"), "rows")
    rows = torch.from_numpy(split(datasets.load(str(trained / "rows.npy"))).train)
    scale = torch.from_numpy(truth.psi).sqrt()
    W = (torch.from_numpy(truth.W) / scale[:, None]).requires_grad_()
    log_psi = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    covariance = W @ W.mT + torch.diag(log_psi.exp())
    mu = torch.from_numpy(truth.mu)
    normal = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), covariance)
    normal.log_prob((rows - mu) / scale).mean().backward()
    for leaf in (W, log_psi):
        assert leaf.grad is not None
        assert float(leaf.grad.abs().max()) < 1e-4
    np.testing.assert_allclose(truth.mu, rows.mean(0), rtol=1e-12)
    assert truth.psi.max() / truth.psi.min() > 1e6


def test_the_commands_of_its_readme_do_what_they_say(
    packages: Path, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    install_it, save, train, serve, ask = lines
    assert install_it == "pip install -e examples/factor_analysis"
    assert serve == "elbod serve --store ./elbod-store"
    assert save.startswith("python -c")
    np.save(tmp_path / "wine.npy", load_wine().data)
    out = elbod(tmp_path, with_packages(packages), *train.split()[1:]).stdout
    number = re.search(r"exact log p\(x\) +(\S+) ±", out)
    assert number is not None
    assert f"{float(number[1]):.1f}" in README
    server = start_server(tmp_path / "elbod-store", **with_packages(packages))
    command = ask.replace("http://127.0.0.1:8000", server.url)
    answer = subprocess.run(command, shell=True, capture_output=True, timeout=30, check=True).stdout
    assert b'"log_evidence":[' in answer


@pytest.mark.parametrize(
    ("target", "module", "reason"),
    [
        ("module:family", "family = dict", "the entry point elbod.generators:other is not a Generator: <class 'dict'>"),
        ("module:family", "family = 3", "the entry point elbod.generators:other is not a Generator: 3"),
        ("module:missing", "", "the entry point elbod.generators:other cannot be loaded"),
        ("absent:family", "", "the entry point elbod.generators:other cannot be loaded: No module named 'absent'"),
    ],
)
def test_an_entry_point_without_a_family_is_one_clear_line(
    tmp_path: Path, target: str, module: str, reason: str
) -> None:
    """Whatever another package declares, the command says which entry point is wrong."""
    metadata = tmp_path / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[elbod.generators]\nother = {target}\n")
    (tmp_path / "module.py").write_text(module)
    np.save(tmp_path / "rows.npy", np.zeros((4, 2)))
    flags = "train --family other --likelihood gaussian --data rows.npy"
    done = elbod(tmp_path, with_packages(tmp_path), *flags.split(), check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr


def test_a_family_that_is_not_installed_is_one_clear_line(trained: Path, start_server: Callable[..., Server]) -> None:
    """Without the package the model is refused by the name of its family, and nothing else goes down."""
    flags = "train --family factor_analysis --likelihood gaussian --data rows.npy"
    done = elbod(trained, {}, *flags.split(), check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("elbod: unknown family 'factor_analysis': one of ")
    server = start_server(trained / "elbod-store")
    answer = httpx.post(f"{server.url}/sample", json={"model": "rows"}, timeout=60)
    assert answer.status_code == 500
    reason = "no family 'factor_analysis' is registered under elbod.generators"
    assert reason in httpx.get(f"{server.url}/readyz").text
    assert httpx.get(f"{server.url}/healthz").status_code == 200
