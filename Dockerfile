# The controller. `./build-image` gathers the context (wheels that match requirements-image.lock) and chooses BASE.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# The base that is made out of Debian packages already carries Python; a registry's base does not.
RUN command -v python3 >/dev/null || { apt-get update && apt-get install -y --no-install-recommends python3; }
COPY wheels /wheels
COPY requirements-image.lock /
# pip runs out of its own wheel and installs from the wheels beside it: nothing is fetched, every hash is checked.
RUN python3 -m venv --without-pip /opt/controller && \
    pip="python3 $(echo /wheels/pip-*.whl)/pip --python /opt/controller install --quiet --no-index --find-links /wheels" && \
    $pip --require-hashes --requirement /requirements-image.lock && \
    $pip --no-deps /wheels/sandbox_controller-*.whl

FROM ${BASE}
RUN command -v python3 >/dev/null || { \
      apt-get update && \
      apt-get install -y --no-install-recommends python3 ca-certificates && \
      rm -rf /var/lib/apt/lists/* /var/cache/apt /usr/share/doc /usr/share/man; }
RUN groupadd --gid 65532 controller && \
    useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin controller && \
    find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/controller /opt/controller
# Bytecode comes with the image: the root may be read-only, and only /tmp has to be writable.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LANG=C.UTF-8 HOME=/tmp PATH=/opt/controller/bin:/usr/bin:/bin
WORKDIR /opt/controller
USER 65532:65532
EXPOSE 8000 8080
ENTRYPOINT ["/opt/controller/bin/sandbox-controller"]
CMD ["run"]
