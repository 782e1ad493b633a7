# docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .   brings CUDA in place of the CPU wheel
#
# Three layers, from what changes least to what changes most: torch, the other packages, our code. A change of our code
# is a layer of some megabytes. Base images are named by version; deploy/pin.py adds their digests.
ARG PYTHON=python:3.11.14-slim-trixie

FROM ${PYTHON} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PATH=/opt/carryover/bin:$PATH
RUN python -m venv --without-pip /opt/carryover
# Each file is known by its hash (`make lock`).
COPY constraints.txt requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/carryover install --require-hashes --no-deps --requirement requirements.lock

# torch's wheel comes from an index of its own, with other hashes than PyPI's.
FROM packages AS torch
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/carryover install --root /torch --extra-index-url "$TORCH_INDEX" --constraint constraints.txt torch \
    && cd /torch/opt/carryover/lib/python3*/site-packages/torch && rm -rf test include bin/protoc* bin/*test*

FROM packages AS code
COPY --from=torch /torch /
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/carryover install --constraint constraints.txt hatchling setuptools
WORKDIR /src
COPY pyproject.toml LICENSE README.md ./
COPY models models
COPY carryover_server carryover_server
COPY app app
COPY client client
RUN pip --python /opt/carryover install --root /code --no-build-isolation --no-deps ./client . \
    && ln -s "$(find /code -path '*/models/zoo' | sed 's,^/code,,')" /code/opt/carryover/zoo \
    && cp -a /code/. /
COPY --chmod=755 deploy/image/entrypoint.sh /code/opt/carryover/bin/entrypoint
COPY deploy/image/healthcheck.py /code/opt/carryover/healthcheck.py
# What a start would compile is compiled here, for the two kinds of processor that the entrypoint tells apart.
RUN cd / && for cpu in x86-64-v3 generic; do \
        NUMBA_CPU_NAME=$cpu NUMBA_CPU_FEATURES= NUMBA_CACHE_DIR=/code/opt/carryover/compiled python -c \
        'import carryover_server; carryover_server.activate(); import app.server, models.nets.native' \
        || exit 1; done
COPY deploy/image/carryover_image.py /code/opt/carryover/image/carryover_image.py

FROM ${PYTHON}
RUN groupadd --gid 10001 carryover && useradd --uid 10001 --gid 10001 --no-create-home carryover \
    && install -d -o 10001 -g 10001 /artifacts /sessions \
    && install -d -o 10001 -g 10001 -m 0700 /keys
COPY --from=torch /torch /
COPY --from=packages /opt/carryover /opt/carryover
COPY --from=code /code /
ENV PATH=/opt/carryover/bin:$PATH \
    PYTHONPATH=/opt/carryover/image \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/opt/carryover/compiled \
    NUMBA_CACHE_LOCATOR_CLASSES=carryover_image.ShippedCache \
    CARRYOVER_HOST=0.0.0.0 \
    CARRYOVER_MODELS=/opt/carryover/zoo/sine:/opt/carryover/zoo/shakespeare:/artifacts
USER 10001:10001
WORKDIR /artifacts
VOLUME /artifacts /sessions
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "/opt/carryover/healthcheck.py"]
ENTRYPOINT ["entrypoint"]
CMD ["serve"]
