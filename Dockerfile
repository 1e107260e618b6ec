# syntax=docker/dockerfile:1

FROM rust:1-slim-bookworm AS build
WORKDIR /src
# SQLite and ring compile C; the image's own gcc is enough, and libc's headers come with it.
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY config config
COPY benches benches
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin stagehook \
 && cp target/release/stagehook /usr/local/bin/stagehook

FROM debian:bookworm-slim
# What scripts may count on: sh, bash, curl, jq, git. tini is process 1, since a container has no other init.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bash ca-certificates curl git jq tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin stagehook \
 && install --directory --owner=stagehook --group=stagehook /data
COPY --from=build /usr/local/bin/stagehook /usr/local/bin/stagehook
COPY config/pipelines /etc/stagehook/pipelines

# A mounted settings file is named with STAGEHOOK_CONFIG; these variables win over it.
ENV STAGEHOOK_SERVER__LISTEN=0.0.0.0:8080 \
    STAGEHOOK_LEDGER__URL=sqlite:///data/stagehook.db \
    STAGEHOOK_PIPELINES=/etc/stagehook/pipelines

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# Docker knows healthy (0) and unhealthy (1) only.
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s --retries=3 CMD ["/bin/sh", "-c", "stagehook health || exit 1"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/stagehook"]
CMD ["serve"]
