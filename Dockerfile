# The server of docs/serving.md. For a CPU:   docker build -t blockrank .
# For an NVIDIA GPU, whose kernels are compiled at the start:
#   docker build -t blockrank --build-arg TORCH=https://download.pytorch.org/whl/cu128 --build-arg COMPILER="gcc libc6-dev" .
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH=https://download.pytorch.org/whl/cpu
ARG COMPILER=""

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions of Debian's compiler are those of the base image.
# hadolint ignore=DL3008
RUN if [ -n "$COMPILER" ]; then \
        apt-get update \
        && echo "$COMPILER" | xargs apt-get install -y --no-install-recommends \
        && rm -rf /var/lib/apt/lists/*; \
    fi

# Before the sources, so that torch is downloaded once and not after every change of them.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "torch>=2.6" --index-url "$TORCH"
WORKDIR /source
COPY . .
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[serve]' && useradd --uid 1000 --create-home blockrank

USER 1000
WORKDIR /home/blockrank
EXPOSE 8765
HEALTHCHECK --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/ready')"]
ENTRYPOINT ["blockrank", "serve", "--host", "0.0.0.0"]
CMD ["--cache", "2GB"]
