# The worker: Triton Inference Server with the network in its Python backend, on CPUs (VARIANT=cpu) or GPUs (VARIANT=gpu).
#
# Build arguments:
#   TRITON_IMAGE     a tritonserver image with Python 3.11 or later. Triton's Python backend runs in the Python version that its
#                    stub is linked with, so the package cannot bring another one. Images up to 24.10 have Python 3.10; 24.12 has 3.12.
#   VARIANT          cpu, or gpu: compiles the CUDA part of the attention operator. nvcc stays in the build stage.
#   TORCH_INDEX_URL  where torch comes from. Default: PyTorch's CPU wheels (0.2 GB). Empty: pip's own index, whose torch brings CUDA 13 (3 GB).
#   VERSION          for the label.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:24.12-py3
ARG VARIANT=cpu

FROM ${TRITON_IMAGE} AS build-base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3002
USER 0:0
RUN python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"this image has Python {sys.version.split()[0]}, proscale needs 3.11 or later: set TRITON_IMAGE to tritonserver:24.12-py3 or newer" or 0)'
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-pip tini && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/worker.txt requirements/worker.hashes.txt requirements/
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# First torch alone from its index, because that index has other versions of other packages. Then the locked packages by hash. Last, what only
# torch needs: NVIDIA's libraries, if it was built with CUDA.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/proscale \
 && pip --python /opt/proscale/bin/python install --disable-pip-version-check --no-deps ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep '^torch==' requirements/worker.txt)" \
 && pip --python /opt/proscale/bin/python install --disable-pip-version-check --no-deps --require-hashes -r requirements/worker.hashes.txt \
 && pip --python /opt/proscale/bin/python install --disable-pip-version-check -r requirements/worker.txt

FROM build-base AS build-cpu
ENV MS_DEFORM_ATTN_CUDA=0

FROM build-base AS build-gpu
COPY requirements/nvcc.txt requirements/
# NVIDIA's compiler from wheels, of the CUDA release that torch was built with. Linkers look for lib64 and unversioned names.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/nvcc \
 && pip --python /opt/nvcc/bin/python install --disable-pip-version-check -r requirements/nvcc.txt \
 && ln -s /opt/nvcc/lib/python3*/site-packages/nvidia/cu13 /opt/cuda \
 && ln -s lib /opt/cuda/lib64
ENV MS_DEFORM_ATTN_CUDA=1 NVCC=/opt/cuda/bin/nvcc CUDA_HOME=/opt/cuda

# hadolint ignore=DL3006
FROM build-${VARIANT} AS build
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY model model
COPY service service
# The package also installs without the compiled operator. An image without it would be slow without notice, so check that it exists.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/proscale/bin/python install --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/proscale/bin/proscale doctor \
 && site=$(/opt/proscale/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/proscale/ops \
 && test -s "$site/_native.so" \
 && { [ "$MS_DEFORM_ATTN_CUDA" = 0 ] || test -s "$site/_native_cuda.so"; } \
 && rm -rf "$site/csrc"

# hadolint ignore=DL3006
FROM ${TRITON_IMAGE}
ARG VERSION=0.1.0
ARG VARIANT
LABEL org.opencontainers.image.title="PRO-SCALE worker" \
      org.opencontainers.image.description="Triton Inference Server with the PRO-SCALE network (${VARIANT})" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /usr/bin/tini-static /usr/local/bin/tini
COPY --from=build /opt/proscale /opt/proscale
COPY docker/triton/model_repository /models
# The backend starts the first python3 on PATH and ignores PYTHONPATH. torch reads the user's name, so a user without one needs LOGNAME.
ENV PATH=/opt/proscale/bin:$PATH \
    HOME=/tmp \
    LOGNAME=proscale \
    PROSCALE_LOG_FORMAT=json \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# Tests the model, not only Triton, and gives gateways time to load a dead model again.
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=3 \
    CMD ["python3", "-m", "proscale.worker_probe", "live"]
ENTRYPOINT ["tini", "--"]
CMD ["proscale", "worker", "--model-repository=/models", "--model-control-mode=explicit", "--load-model=proscale", "--exit-timeout-secs=30"]
