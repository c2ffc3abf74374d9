# The server with its page. Built by `docker compose build`; docs/deploy.md explains how to run it.

# 3.12: the middle of the versions that the tests run on.
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY duplex_server duplex_server
COPY web_client web_client
# Extras to install, e.g. "faces".
ARG EXTRAS=""
RUN python -m venv /opt/duplex && /opt/duplex/bin/pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.12-slim-bookworm
COPY --from=build /opt/duplex /opt/duplex
COPY scripts/healthcheck.py /opt/duplex/healthcheck.py
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp duplex
ENV PATH=/opt/duplex/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER duplex
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "/opt/duplex/healthcheck.py"]
# As process 1 it gets docker's SIGTERM itself and lets conversations finish.
ENTRYPOINT ["duplex-server"]
CMD ["serve"]
