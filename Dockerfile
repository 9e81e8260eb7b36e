# Three images from one file: `--target worker` trains and publishes, `--target service` serves, `--target ray` is a node
# of a Ray cluster.
#
#   docker build --target service --tag elbod-service:0.1.0 .
#
# BASE_IMAGE: any Linux with Python >= 3.11 and its venv module. PIP_EXTRA_INDEX_URL: the index that PyTorch names for
# its CPU builds, or for another CUDA; without it PyPI's build is taken, which has CUDA on x86-64 and is far larger.
ARG BASE_IMAGE=docker.io/library/python:3.11.15-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

# What elbod needs, without elbod: this layer, nearly all of the image, outlives every change of the source.
FROM base AS dependencies
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /build
COPY constraints.txt pyproject.toml ./
RUN python3 -m venv /opt/venv \
    && python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = p['optional-dependencies']; \
open('serve.txt', 'w').write('\n'.join(p['dependencies'])); \
open('train.txt', 'w').write('\n'.join(extras['train'])); \
open('ray.txt', 'w').write('\n'.join(extras['tables'] + [r for r in extras['ray'] if not r.startswith('elbod[')]))" \
    && pip install --only-binary=:all: --constraint constraints.txt --requirement serve.txt

# What only a Ray cluster needs. A stage of its own: the other images do not wait for it.
FROM dependencies AS ray-wheels
COPY constraints-ray.txt ./
RUN pip download --only-binary=:all: --constraint constraints.txt --constraint constraints-ray.txt --dest /wheels \
        --requirement ray.txt \
    && cp ray.txt /wheels

# elbod itself, and what only training needs, as wheels.
FROM dependencies AS wheels
RUN pip install --constraint constraints.txt hatchling \
    && pip download --only-binary=:all: --constraint constraints.txt --dest /wheels --requirement train.txt \
    && cp train.txt /wheels
COPY LICENSE README.md ./
COPY model_store model_store
COPY service service
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base AS runtime
LABEL org.opencontainers.image.title="elbod" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-index --no-deps /wheels/elbod-*.whl
# The container's user need not be one that the image knows.
ENV HOME=/tmp
# An elbod.toml that is mounted here is read.
WORKDIR /etc/elbod
USER 10001:10001

FROM runtime AS worker
USER 0:0
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-index --find-links /wheels --requirement /wheels/train.txt
USER 10001:10001
# A worker says that it was interrupted, and that what it published stays.
STOPSIGNAL SIGINT
ENTRYPOINT ["elbod", "train"]
CMD ["--help"]

FROM runtime AS ray
USER 0:0
RUN --mount=type=bind,from=ray-wheels,source=/wheels,target=/wheels \
    pip install --no-index --find-links /wheels --requirement /wheels/ray.txt
USER 10001:10001
# KubeRay starts it with the command of its node.
ENTRYPOINT ["ray"]
CMD ["--help"]

FROM runtime AS service
EXPOSE 8000
ENTRYPOINT ["elbod", "serve"]
