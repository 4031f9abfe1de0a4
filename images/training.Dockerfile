# The image of every Ray pod: Ray, torch with CUDA, DeepSpeed with its CPU ops, and the `finetune` command.
# `make images` builds it. BASE has Python 3.11 with its headers, pip and venv.
# To add packages: FROM this image, `USER root`, `RUN uv pip install ...`, `USER 1000`.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# wget and bash: KubeRay's probes. g++: DeepSpeed and Triton compile at run time what is not built here.
RUN set -eu; \
    apt-get update -qq; \
    apt-get install --yes -qq --no-install-recommends bash ca-certificates g++ wget; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*

# Any user id of group 0 may write to the home: some clusters choose the user.
RUN useradd --uid 1000 --gid 0 --create-home finetune && chmod -R g=u /home/finetune
ENV HOME=/home/finetune VIRTUAL_ENV=/opt/finetune PATH=/opt/finetune/bin:/opt/uv/bin:$PATH \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt RAY_USAGE_STATS_ENABLED=0 HF_HUB_DISABLE_TELEMETRY=1

# The locked versions, torch and CUDA in a layer of their own: a layer that is committed exists three times for a while.
ARG UV_VERSION
ARG UV_NO_CACHE=true
ARG UV_CACHE_DIR=/var/cache/uv
COPY training/requirements.lock /opt/src/
RUN set -eu; \
    export PIP_CERT=$SSL_CERT_FILE UV_LINK_MODE=copy UV_COMPILE_BYTECODE=true; \
    python3.11 -m venv /opt/uv; \
    /opt/uv/bin/pip install --quiet --no-cache-dir uv==$UV_VERSION; \
    uv venv --quiet --python python3.11 $VIRTUAL_ENV; \
    grep -E '^(torch|triton|nvidia-)' /opt/src/requirements.lock > /tmp/torch.lock; \
    uv pip install --quiet --no-deps --requirement /tmp/torch.lock; \
    rm /tmp/torch.lock

# DeepSpeed last, because its ops are built with torch, and not from uv's cache, which may hold it without ops. They are
# compiled for the processor of the machine that builds the image.
RUN set -eu; \
    export UV_LINK_MODE=copy UV_COMPILE_BYTECODE=true; \
    grep -v '^deepspeed==' /opt/src/requirements.lock > /tmp/others.lock; \
    grep '^deepspeed==' /opt/src/requirements.lock > /tmp/deepspeed.lock; \
    uv pip install --quiet --no-deps --requirement /tmp/others.lock; \
    DS_ACCELERATOR=cpu DS_BUILD_CPU_ADAM=1 DS_BUILD_SHM_COMM=1 DS_ENABLE_NINJA=1 \
      uv pip install --quiet --no-cache --no-deps --no-build-isolation --requirement /tmp/deepspeed.lock; \
    rm /tmp/others.lock /tmp/deepspeed.lock

# Last, because it changes most.
COPY training /opt/src/training
RUN uv pip install --quiet --no-cache --no-deps --no-build-isolation /opt/src/training

USER 1000
WORKDIR /home/finetune
