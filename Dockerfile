# docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .   brings CUDA in place of the CPU wheel

FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/carryover/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/carryover
# What we depend on is a layer of its own: a change of our code does not fetch torch again.
# Each file is known by its hash (`make lock`), but torch's: its wheel comes from an index of its own.
COPY constraints.txt requirements.lock ./
RUN pip install --require-hashes --no-deps --requirement requirements.lock \
    && pip install --extra-index-url "$TORCH_INDEX" --constraint constraints.txt setuptools torch
COPY pyproject.toml ./
COPY LICENSE ./
COPY models models
COPY app app
COPY client client
RUN pip install --no-build-isolation --no-deps . \
    && ln -s "$(cd / && python -c 'import models; print(*models.__path__)')/zoo" /opt/carryover/zoo

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home carryover && install -d -o carryover /artifacts /sessions
COPY --from=build /opt/carryover /opt/carryover
ENV PATH=/opt/carryover/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    CARRYOVER_HOST=0.0.0.0 \
    CARRYOVER_MODELS=/opt/carryover/zoo:/artifacts
USER carryover
WORKDIR /artifacts
VOLUME /artifacts /sessions
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('CARRYOVER_PORT', 8000)}/health/ready\", timeout=2)"]
ENTRYPOINT ["carryover"]
CMD ["serve"]
