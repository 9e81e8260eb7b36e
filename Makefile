# Two commands matter: `make demo` and `make test`. PIP_ARGS goes to pip, for example to choose a build of PyTorch:
#   make install PIP_ARGS="--index-url <the PyTorch index of your CUDA or CPU build> --extra-index-url <PyPI>"
PYTHON ?= python3
PIP_ARGS ?=
BENCH_ARGS ?=
FUZZ_SECONDS ?= 300
VENV := .venv
BIN := $(VENV)/bin
SPEC := pyproject.toml clients/python/pyproject.toml constraints.txt

.PHONY: install install-dev install-ray lock demo test test-ray lint docs docs-serve compose-local bench bench-fashion bench-training bench-store bench-client bench-coverage bench-playground bench-ray gpu mutations adversary attacks soak faults fuzz clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev
install-ray: $(VENV)/.installed-ray

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "elbod needs Python >= 3.11; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(SPEC)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -e '.[report,train]' -e clients/python
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python $(SPEC)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -e '.[dev]' -e clients/python
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-ray: $(VENV)/.installed-dev constraints-ray.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -c constraints-ray.txt $(PIP_ARGS) -e '.[dev,ray]' -e clients/python
	@touch $@

# What the images install, by version and SHA-256: after a change of pyproject.toml or the constraints.
lock: install-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt uv
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lock

demo: install
	$(BIN)/elbod demo

# docker-compose.yml without containers: see deploy/README.md.
compose-local: install-dev
	$(BIN)/python scripts/compose-secrets
	$(BIN)/python scripts/compose-local

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation: a folder that opens without a server, or a server that follows changes.
docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Three at a time: most tests wait for processes of their own.
test: lint
	$(BIN)/pytest -n 3 --dist worksteal

# What needs Ray, which takes 741 MB; without it `make test` skips these tests, and says so.
test-ray: install-ray
	$(BIN)/pytest tests/scale tests/deploy/test_ray_manifests.py tests/deploy/test_ray_network.py

# elbod next to other servers, which get their own virtual environments, and next to its limits, in interleaved rounds;
# with BENCH_ARGS=--quick in nine minutes. Uses wrk where it is installed.
bench: install
	$(BIN)/python benchmarks/serving.py $(BENCH_ARGS)

# Long runs, whose results are kept in benchmarks/RESULTS.md.
bench-fashion: install
	$(BIN)/python benchmarks/fashion_mnist.py

# Steps a second next to pythae, which gets its own virtual environment.
bench-training: install-dev
	$(BIN)/python benchmarks/training.py

# A million rows through the Python client, next to a raw loop.
bench-client: install-dev
	$(BIN)/python benchmarks/client.py $(BENCH_ARGS)

# How often intervals hold the bound of a model with levels: BENCH_ARGS="STORE MODEL".
bench-coverage: install
	$(BIN)/python benchmarks/coverage.py $(BENCH_ARGS)

# What the model store costs: 1 GiB published, 10,000 versions looked up.
bench-store: install-dev
	$(BIN)/python benchmarks/store.py

# How fast the playground paints, and how many pictures a second its pad decodes; needs Chromium.
bench-playground: install-dev
	$(BIN)/python benchmarks/playground.py

# What a request costs through Ray, a million rows by one of its actors, and what a replica scores of each family.
bench-ray: install-ray
	$(BIN)/python benchmarks/on_ray.py $(BENCH_ARGS)

# The tests that need a GPU, and the engine next to its networks there; GPU_PYTHON has elbod and PyTorch for CUDA.
GPU_PYTHON ?= $(BIN)/python
gpu:
	$(GPU_PYTHON) -m pytest -q tests/engine/test_cuda.py tests/training/test_cuda.py
	$(GPU_PYTHON) benchmarks/gpu.py

# Breaks the mathematics in one place after the other: a test must fail for each.
mutations: install-dev
	$(BIN)/python benchmarks/mutations.py

# The tests of the promise and of overload again, for minutes instead of seconds.
adversary: install-dev
	ELBOD_ADVERSARY_REQUESTS=500 ELBOD_OVERLOAD_SECONDS=60 ELBOD_TINY_REQUESTS=100000 $(BIN)/pytest \
	  --override-ini=timeout=3600 tests/e2e/test_adversary.py tests/api/test_hostile.py

# What other callers feel while one of them attacks, in five minutes.
attacks: install-dev
	$(BIN)/python benchmarks/attacks.py

# Everything at once, with swaps and kills, for half an hour: no answer lost, none wrong, no memory leaked.
SOAK_SECONDS ?= 1800
soak: install-dev
	$(BIN)/python benchmarks/soak.py --seconds $(SOAK_SECONDS)

# What callers see of each fault, in six minutes; some need root or faketime, and say so.
faults: install-dev
	$(BIN)/python benchmarks/faults.py

# Generated and hostile input: requests made of the OpenAPI document, bodies, raw sockets, versions, import folders. The
# first line of output has the seed; ELBOD_FUZZ_SEED repeats a run.
fuzz: install-dev
	ELBOD_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/pytest -s --override-ini=timeout=3600 tests/fuzz

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
