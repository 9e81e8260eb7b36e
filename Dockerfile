# Three images from one file: `--target worker` trains and publishes, `--target service` serves, `--target ray` is a node
# of a Ray cluster.
#
#   docker build --target service --tag elbod-service:0.1.0 .
#
# BASE_IMAGE: any Linux with Python >= 3.11 and its venv module. pip installs only files whose SHA-256 is in locks/.
# PyTorch comes from PyPI, with CUDA. TORCH=torch-cpu with PIP_EXTRA_INDEX_URL=<the index that PyTorch names for its CPU
# builds> takes the far smaller one without. For another build, add its version and hashes as locks/NAME.txt.
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
ARG TORCH=torch
WORKDIR /build
COPY locks locks
RUN python3 -m venv /opt/venv \
    && pip install --only-binary=:all: --require-hashes --requirement locks/serve.txt --requirement "locks/$TORCH.txt"

# What only a Ray cluster needs. A stage of its own: the other images do not wait for it.
FROM dependencies AS ray-wheels
RUN pip download --only-binary=:all: --require-hashes --requirement locks/ray.txt --dest /wheels \
    && cp locks/ray.txt /wheels

# elbod itself, and what only training needs, as wheels.
FROM dependencies AS wheels
RUN pip install --only-binary=:all: --require-hashes --requirement locks/build.txt \
    && pip download --only-binary=:all: --require-hashes --requirement locks/train.txt --dest /wheels \
    && cp locks/train.txt /wheels
COPY LICENSE README.md pyproject.toml ./
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
    pip install --no-index --find-links /wheels --require-hashes --requirement /wheels/train.txt
USER 10001:10001
# A worker says that it was interrupted, and that what it published stays.
STOPSIGNAL SIGINT
ENTRYPOINT ["elbod", "train"]
CMD ["--help"]

FROM runtime AS ray
USER 0:0
RUN --mount=type=bind,from=ray-wheels,source=/wheels,target=/wheels \
    pip install --no-index --find-links /wheels --require-hashes --requirement /wheels/ray.txt
USER 10001:10001
# KubeRay starts it with the command of its node.
ENTRYPOINT ["ray"]
CMD ["--help"]

FROM runtime AS service
EXPOSE 8000
ENTRYPOINT ["elbod", "serve"]
