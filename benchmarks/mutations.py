"""Breaks the mathematics in one place at a time and shows that a test fails: `make mutations`.

Each mutant is one replacement in a copy of the tree; its tests are run until the first failure. A mutant that no test
notices makes the command fail.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATORS = "service/elbod/generators"
CHAINS = ("tests/oracles/test_diffusion.py", "tests/oracles/test_diffusion_sampling.py")


@dataclass(frozen=True)
class Mutant:
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "the KL with the wrong sign",
        f"{GENERATORS}/bounds.py",
        "per_draw = reconstruction - terms.kl",
        "per_draw = reconstruction + terms.kl",
        ("tests/generators/test_bounds.py",),
    ),
    Mutant(
        "beta in the reported bound",
        f"{GENERATORS}/bounds.py",
        "per_draw = reconstruction - terms.kl",
        "per_draw = reconstruction - 0.9 * terms.kl",
        ("tests/generators/test_bounds.py",),
    ),
    Mutant(
        "a constant dropped from log p(z)",
        f"{GENERATORS}/priors.py",
        "return -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)",
        "return -0.5 * (z**2).sum(-1)",
        ("tests/generators/test_normals.py", "tests/oracles"),
    ),
    Mutant(
        "a constant dropped from the Gaussian likelihood",
        f"{GENERATORS}/likelihoods/gaussian.py",
        "0.5 * math.log(2 * math.pi)",
        "0.0",
        ("tests/generators/test_likelihoods.py",),
    ),
    Mutant(
        "a constant dropped from a ladder's conditionals",
        f"{GENERATORS}/ladder.py",
        "+ log_stddev + 0.5 * _LOG_2PI).sum(-1)",
        "+ log_stddev).sum(-1)",
        ("tests/generators/test_ladder.py", "tests/oracles/test_hierarchy.py"),
    ),
    Mutant(
        "a ladder's KL without its logarithm",
        f"{GENERATORS}/ladder.py",
        "torch.expm1(2 * self.log_ratio)) - self.log_ratio)",
        "torch.expm1(2 * self.log_ratio)))",
        ("tests/generators/test_ladder.py",),
    ),
    Mutant(
        "a flow's log-determinant with the wrong sign",
        f"{GENERATORS}/flows.py",
        "log_density: Tensor = log_det - 0.5 * (u**2",
        "log_density: Tensor = -log_det - 0.5 * (u**2",
        ("tests/generators/test_flows.py",),
    ),
    Mutant(
        "an open edge bin",
        f"{GENERATORS}/likelihoods/discretized_logistic.py",
        "not_top, not_bottom = x < self.levels - 1, x > 0",
        "not_top, not_bottom = x < self.levels, x > 0",
        ("tests/generators/test_likelihoods.py",),
    ),
    Mutant(
        "a loaded model in train mode",
        f"{GENERATORS}/checkpoint.py",
        "return generator.eval().requires_grad_(False)",
        "return generator.train().requires_grad_(False)",
        ("tests/generators/test_checkpoint.py",),
    ),
    Mutant(
        "held-out bounds of a model in train mode",
        "service/elbod/training/loop.py",
        "copy.deepcopy(self._generator).eval().requires_grad_(False)",
        "copy.deepcopy(self._generator).requires_grad_(False)",
        ("tests/training/test_loop.py",),
    ),
    Mutant(
        "densities in float32",
        "service/elbod/engine/programs.py",
        "exact = observation.double()",
        "exact = observation",
        ("tests/engine/test_engine.py",),
    ),
    Mutant(
        "1/w forgotten where the engine adds up sampled levels",
        "service/elbod/engine/settling.py",
        "drawn.level_kl / (chunk.visits.shape[1] * weights)",
        "drawn.level_kl / chunk.visits.shape[1]",
        ("tests/engine/test_levels.py",),
    ),
    Mutant(
        "paths of the engine without the terms of one pass",
        "service/elbod/engine/settling.py",
        "            total[at] += values",
        "            total[at] = values",
        ("tests/engine/test_levels.py",),
    ),
    Mutant(
        "sums in float32",
        f"{GENERATORS}/bounds.py",
        "np.ascontiguousarray(values).sum(axis=1)",
        "np.ascontiguousarray(values).astype(np.float32).sum(axis=1)",
        ("tests/generators/test_bounds.py", "tests/oracles"),
    ),
    Mutant(
        "an importance-weighted bound without its log K",
        f"{GENERATORS}/bounds.py",
        "iwae = top[:, 0] + np.log(mean_weight)",
        "iwae = top[:, 0] + np.log(_sum(weights))",
        ("tests/generators/test_bounds.py", "tests/oracles"),
    ),
    Mutant(
        "Pareto k of the negated log weights",
        f"{GENERATORS}/bounds.py",
        "k_hat = pareto_k(log_weights)",
        "k_hat = pareto_k(-log_weights)",
        ("tests/generators/test_bounds.py", "tests/oracles"),
    ),
    Mutant(
        "a standard error with ddof = 0",
        f"{GENERATORS}/bounds.py",
        "_sum(np.square(centered)) / (count - 1) / count",
        "_sum(np.square(centered)) / count / count",
        ("tests/generators/test_bounds.py",),
    ),
    Mutant(
        "a label's divergence left out of the marginal",
        f"{GENERATORS}/bounds.py",
        "kl=mean(self.log_q - self.log_prior) + divergence",
        "kl=mean(self.log_q - self.log_prior)",
        ("tests/oracles/test_labels.py",),
    ),
    Mutant(
        "labels of equal weight",
        f"{GENERATORS}/bounds.py",
        "joint = self.label_log_prob + self.log_weights.mean(axis=2)",
        "joint = -np.log(len(self.label_log_prob)) + self.log_weights.mean(axis=2)",
        ("tests/oracles/test_labels.py",),
    ),
    Mutant(
        "a conformal rank that forgets the row itself",
        f"{GENERATORS}/bounds.py",
        'upper = (1 + n - np.searchsorted(reference, scores, side="left")) / (n + 1)',
        'upper = (n - np.searchsorted(reference, scores, side="left")) / (n + 1)',
        ("tests/generators/test_bounds.py", "tests/oracles"),
    ),
    Mutant(
        "a diffusion's objective without its 1/w",
        f"{GENERATORS}/diffusion.py",
        "return terms / weights[level] - beta",
        "return terms * len(weights) - beta",
        CHAINS,
    ),
    Mutant(
        "a u that all rows share",
        f"{GENERATORS}/strata.py",
        "places = u[:, None] +",
        "places = np.full_like(u, u[0])[:, None] +",
        CHAINS,
    ),
    Mutant(
        "clipping in a diffusion's sampler alone",
        f"{GENERATORS}/diffusion.py",
        "z = step.mean(walk.z.double(), m) + width",
        "z = step.mean(walk.z.double(), m.clamp(-0.5, 0.5)) + width",
        CHAINS,
    ),
    Mutant(
        "clipping in a diffusion's score alone",
        f"{GENERATORS}/diffusion.py",
        "after.z.double(), q.f, m, v)",
        "after.z.double(), q.f, m.clamp(-0.5, 0.5), v)",
        CHAINS[1:],
    ),
    Mutant(
        "a path's entropy left out",
        f"{GENERATORS}/bounds.py",
        "KnownEntropy(sampled.kl, -sampled.kl - entropy, entropy)",
        "KnownEntropy(sampled.kl, -sampled.kl, 0 * entropy)",
        CHAINS,
    ),
    Mutant(
        "the entropy of z_T left out of a path's",
        f"{GENERATORS}/chain.py",
        "Sampled(-0.5 * (z**2 + _LOG_2PI), log_q), known, known.entropy)",
        "Sampled(-0.5 * (z**2 + _LOG_2PI), log_q), known, 0 * known.entropy)",
        CHAINS,
    ),
    Mutant(
        "beta in the log weight of a path",
        f"{GENERATORS}/terms.py",
        "return self.log_q - self.log_prior",
        "return 0.9 * (self.log_q - self.log_prior)",
        CHAINS,
    ),
    Mutant(
        "beta in a diffusion's conditional terms",
        f"{GENERATORS}/chain.py",
        "kl=0.5 * (torch.log1p(rho)",
        "kl=0.45 * (torch.log1p(rho)",
        CHAINS,
    ),
    Mutant(
        "the prior term of a diffusion left out",
        f"{GENERATORS}/chain.py",
        "kl=0.5 * (square - signal**2 - log_variance)",
        "kl=0 * square",
        CHAINS,
    ),
    Mutant(
        "argmax decoding of bits",
        f"{GENERATORS}/likelihoods/bernoulli.py",
        "(u > torch.sigmoid(-self.logits))",
        "(self.logits + 0 * u > 0)",
        CHAINS,
    ),
    Mutant(
        "a variance of beliefs that cancels",
        f"{GENERATORS}/belief.py",
        "4 * torch.sigmoid(post.logits) * torch.sigmoid(-post.logits)",
        "1 - torch.tanh(post.logits / 2) ** 2",
        ("tests/generators/test_diffusion.py",),
    ),
    Mutant(
        "edge bins that are not closed while training",
        f"{GENERATORS}/logistic_posterior.py",
        "_ends(weight).sub_(torch.log(-torch.expm1(-inverse_scale)))",
        "None",
        ("tests/generators/test_logistic_posterior.py",),
    ),
    Mutant(
        "bytes that wrap around before they are cast",
        f"{GENERATORS}/denoiser.py",
        "(x.to(self.shift.dtype) - self.shift)",
        "(x - self.shift.to(x.dtype))",
        ("tests/generators/test_diffusion.py",),
    ),
    Mutant(
        "levels of a chain that share their noise",
        f"{GENERATORS}/noise.py",
        "+ np.asarray(first_block, np.uint64).reshape(-1, 1)",
        "+ 0 * np.asarray(first_block, np.uint64).reshape(-1, 1)",
        ("tests/generators/test_noise.py",),
    ),
    Mutant(
        "labels that no training row loses",
        f"{GENERATORS}/diffusion.py",
        "label = label.masked_fill(hidden, len(self._labels))",
        "label = label.masked_fill(hidden & False, len(self._labels))",
        ("tests/generators/test_diffusion_labels.py",),
    ),
    Mutant(
        "guidance that begins at the label",
        f"{GENERATORS}/denoiser.py",
        "return without + (1 + guidance) * (m - without), v",
        "return without + guidance * (m - without), v",
        ("tests/generators/test_diffusion_labels.py",),
    ),
    Mutant(
        "guided draws that claim a bound",
        "service/elbod/requests/answers.py",
        'job.sampler == "ancestral" and not job.guidance',
        'job.sampler == "ancestral"',
        ("tests/api/test_null_label.py",),
    ),
    Mutant(
        "rows without a label that have the first one",
        "service/elbod/engine/progress.py",
        "np.full(len(chunk.slots), null)",
        "np.full(len(chunk.slots), 0)",
        ("tests/engine/test_levels.py",),
    ),
    Mutant(
        "a sum over labels with the sampled entropy of a chain",
        f"{GENERATORS}/bounds.py",
        "log_prior, log_q = known.log_prior, -known.entropy",
        "log_prior = known.log_prior",
        ("tests/engine/test_levels.py",),
    ),
)


def main() -> int:
    _say("| broken | noticed by | seconds |\n|---|---|---|")
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in names.splitlines():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
        for mutant in MUTANTS:
            started = time.monotonic()
            found = _noticed(copy, mutant)
            missed += found is None
            _say(f"| {mutant.what} | {found or '**nothing**'} | {time.monotonic() - started:.0f} |")
    return min(missed, 1)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _noticed(copy: Path, mutant: Mutant) -> str | None:
    """The first test that fails on the mutant."""
    path = copy / mutant.file
    original = path.read_text()
    if original.count(mutant.before) < 1:
        raise SystemExit(f"{mutant.file} has no {mutant.before!r}: the mutant must follow the code")
    path.write_text(original.replace(mutant.before, mutant.after))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-rf", "--no-header", *mutant.tests],
            cwd=copy,
            # The copy's packages stand before the installed ones.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(str(copy / p) for p in ("service", "model_store"))},
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(original)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode not in (0, 1):
        raise SystemExit(f"the tests of {mutant.what!r} did not run:\n{done.stdout[-2000:]}")
    return f"`{failed[0].split()[1].rpartition('::')[2].partition('[')[0]}`" if failed else None


if __name__ == "__main__":
    sys.exit(main())
