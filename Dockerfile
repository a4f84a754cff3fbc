# syntax=docker/dockerfile:1
# Two images from one file: `api` without torch (some 400 MB), and `worker` with everything.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 1000 labeler && mkdir /data /cache && chown labeler /data /cache
WORKDIR /app

FROM base AS source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY labeler labeler
COPY workers workers
COPY api api

# The lock holds for what is installed and for what builds this project.
FROM base AS locked
COPY --from=source /app /app
ENV PIP_CONSTRAINT=/app/constraints.txt PIP_BUILD_CONSTRAINT=/app/constraints.txt
RUN python -m venv /venv && /venv/bin/pip install pip

FROM locked AS api-build
# The dependency group `api` is the part of the project's dependencies that the web process imports.
RUN /venv/bin/pip install --group api && /venv/bin/pip install --no-deps .

FROM locked AS worker-build
RUN /venv/bin/pip install ".[service,postgres,hub]"

FROM base AS api
COPY --from=api-build /venv /venv
ENV PATH=/venv/bin:$PATH LABELER_DATA=/data
USER 1000
VOLUME /data
EXPOSE 8000
CMD ["python", "-m", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
COPY --from=worker-build /venv /venv
# OpenMP threads that spin starve the other processes of a machine. The hub's cache may hold a token, and requests may name
# what lies in the data folder: so it lies elsewhere.
ENV PATH=/venv/bin:$PATH LABELER_DATA=/data HF_HOME=/cache/huggingface OMP_WAIT_POLICY=PASSIVE
USER 1000
VOLUME ["/data", "/cache"]
CMD ["python", "-m", "workers", "label"]
