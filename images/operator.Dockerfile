# The image of the operator: its package, the contract that it shares with the training package, and no torch.
# `make images` builds it. BASE has Python 3.11 with pip and venv.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS packages
ARG UV_VERSION
ARG UV_NO_CACHE=true
ENV VIRTUAL_ENV=/opt/finetune SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PATH=/opt/uv/bin:$PATH
COPY operator/requirements.lock /opt/src/
RUN set -eu; \
    export PIP_CERT=$SSL_CERT_FILE UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy; \
    python3.11 -m venv /opt/uv; \
    /opt/uv/bin/pip install --quiet --no-cache-dir uv==$UV_VERSION; \
    uv venv --quiet --python python3.11 $VIRTUAL_ENV; \
    uv pip install --quiet --compile-bytecode --no-deps --requirement /opt/src/requirements.lock
COPY operator /opt/src/operator
COPY training /opt/src/training
RUN uv pip install --quiet --no-cache --no-deps --build-constraint /opt/src/training/requirements.lock \
      /opt/src/operator /opt/src/training

FROM ${BASE}
RUN useradd --uid 1000 --gid 0 --create-home finetune
ENV VIRTUAL_ENV=/opt/finetune PATH=/opt/finetune/bin:$PATH
COPY --from=packages /opt/finetune /opt/finetune
USER 1000
WORKDIR /home/finetune
