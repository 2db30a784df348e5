# CPU only. Build: docker build -t scorefield .
# Run: docker run --rm -v "$PWD/runs:/work/runs" scorefield demo
FROM python:3.12-slim

# the compiler builds the kernels of scorefield.fast once
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md LICENSE /source/
COPY src /source/src
RUN pip install --no-cache-dir /source

RUN useradd --create-home --uid 1000 user && mkdir -p /work/runs && chown -R user /work
USER user
WORKDIR /work
ENTRYPOINT ["scorefield"]
CMD ["--help"]
