# The worker's image: the project and its dependencies, no embedded servers, no build tools.
FROM python:3.11-slim AS build
WORKDIR /build
COPY constraints.txt constraints-dev.txt ./
RUN python -m venv /build-venv && python -m venv /venv
RUN /build-venv/bin/pip install --no-cache-dir --require-hashes -r constraints-dev.txt
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r constraints.txt
COPY pyproject.toml README.md ./
COPY streams streams
COPY agents agents
COPY config config
RUN /build-venv/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /venv/bin/pip install --no-cache-dir --no-deps /dist/*.whl

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /app capsules
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER capsules
STOPSIGNAL SIGTERM
CMD ["faust", "-A", "streams.app", "worker"]
