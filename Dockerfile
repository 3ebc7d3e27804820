# lcx on a CPU. It has never been built where lcx is developed, which has no container runtime: say what fails.
#
#   docker build -t lcx .
#   docker run --rm -v "$PWD:/work" -v lcx-cache:/cache lcx demo
#
# For GPUs: --build-arg TORCH=cu130 (a folder of download.pytorch.org/whl), and docker run --gpus all --shm-size 8g
FROM python:3.12-slim
ARG TORCH=cpu
RUN pip install --no-cache-dir torch --index-url "https://download.pytorch.org/whl/${TORCH}"
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src
ENV LCX_CACHE=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["lcx"]
