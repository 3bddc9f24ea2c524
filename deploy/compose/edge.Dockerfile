# The agent of one hospital. Build from the root of the source: docker build -f deploy/compose/edge.Dockerfile .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=edge
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY protocol/ protocol/
COPY privacy/ privacy/
COPY pipelines/ pipelines/
COPY edge/ edge/
COPY central/ central/
COPY corsia/ corsia/
RUN python -m venv /opt/corsia \
 && /opt/corsia/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
RUN groupadd --system --gid 10001 corsia \
 && useradd --system --uid 10001 --gid corsia --home-dir /var/lib/corsia --shell /usr/sbin/nologin --no-log-init corsia \
 && install -d -m 0700 -o corsia -g corsia /var/lib/corsia
COPY --from=build /opt/corsia /opt/corsia
COPY --chmod=0755 deploy/compose/edge.sh /usr/local/bin/corsia-entry
ENV PATH=/opt/corsia/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    CORSIA_EDGE_CONFIG=/etc/corsia/edge.toml \
    CORSIA_EDGE_STATE_DIR=/var/lib/corsia
USER 10001:10001
WORKDIR /var/lib/corsia
VOLUME /var/lib/corsia
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s \
  CMD ["/usr/local/bin/corsia-entry", "health"]
ENTRYPOINT ["/usr/local/bin/corsia-entry"]
CMD ["run"]
