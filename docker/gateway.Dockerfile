# The gateway: HTTP in, gRPC to Triton out. The final image has no torch, no compiler and no pip.
#
# Build arguments: PYTHON_IMAGE, any Python 3.11 or later on Debian; VERSION, for the label.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Dependencies before sources, so that this layer stays cached when only the code changes.
COPY requirements/gateway.txt requirements/gateway.hashes.txt requirements/run.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/proscale \
 && pip --python /opt/proscale/bin/python install --disable-pip-version-check --no-deps --require-hashes -r requirements/gateway.hashes.txt \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --disable-pip-version-check "$(grep '^setuptools==' requirements/run.txt)"
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY model model
COPY service service
# The package with the extras `gateway` and `tracing`: all that it needs is installed already, and --no-index keeps pip from adding more.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /built . \
 && pip --python /opt/proscale/bin/python install --disable-pip-version-check --no-index -c requirements/gateway.txt "$(echo /built/*.whl)[gateway,tracing]" \
 && rm -rf /opt/proscale/lib/python3*/site-packages/proscale/ops/csrc

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="PRO-SCALE gateway" \
      org.opencontainers.image.description="Panoptic, instance and semantic segmentation over HTTP; the network runs in Triton" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
# A static tini needs no library of the image. It forwards signals from the start, also while Python still imports.
COPY --from=build /usr/bin/tini-static /usr/local/bin/tini
COPY --from=build /opt/proscale /opt/proscale
ENV PATH=/opt/proscale/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PROSCALE_ENGINE=triton \
    PROSCALE_HOST=0.0.0.0 \
    PROSCALE_PORT=8000 \
    PROSCALE_LOG_FORMAT=json
# A numeric id, because Kubernetes can check runAsNonRoot only for numbers.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
# Liveness, not readiness: a container engine that replaces unhealthy containers must not replace a gateway whose worker is down.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
ENTRYPOINT ["tini", "--"]
CMD ["proscale", "serve"]
