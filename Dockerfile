# CPU only. Build: docker build -t scorefield .
# Run: mkdir -p runs; docker run --rm --user "$(id -u)" -v "$PWD/runs:/work/runs" scorefield demo
FROM python:3.12-slim

# the compiler builds the kernels of scorefield.fast once
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md LICENSE /source/
COPY src /source/src
RUN pip install --no-cache-dir /source

# any user may run it, because a mounted folder is that user's; caches go to HOME
RUN mkdir -p /work/runs && chmod 1777 /work /work/runs
ENV HOME=/work USER=user
USER 1000
WORKDIR /work
ENTRYPOINT ["scorefield"]
CMD ["--help"]
