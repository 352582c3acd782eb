# Capstan's images: targets operator, serving, agent, trainer, and prometheus for the demo. `make images` builds them;
# so does
#
#   docker build --target operator .
#
# The arguments are all that differs between a registry's bases and a machine that has no registry:
#   BASE_IMAGE  any glibc image with Python 3.11 or newer as `python3`, its venv module and a CA bundle
#   NATIVE      source: the serving extension is compiled here; prebuilt: its wheel lies in dist/native
#   VARIANT     (serving) cpu, or gpu with the CUDA, cuDNN and TensorRT libraries
#   DEVICE      (trainer) cuda, or cpu, which leaves out the libraries that a CPU never maps
# A corporate CA bundle is the secret `ca`: --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt
#
# Everything from PyPI is at the version and hash of uv.lock. Nothing is compiled in a final stage, and everything
# runs as 65532 with a read-only root.
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b
ARG RUST_IMAGE=rust:1.98-slim-bookworm@sha256:b5395fa1e42e25148de9b2fd8c8c3a8a341ccb17554ade0ad6bd9a47031f5101
ARG NATIVE=source
ARG VARIANT=cpu

# uv, which installs everything else
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS tools
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /tools \
    && echo "uv==0.13.9 --hash=sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19" >/tools/requirements.txt \
    && /tools/bin/pip install --quiet --require-hashes --requirement /tools/requirements.txt

# The locks as one list of requirements for each image. A later stage copies its own list, so it is built anew when
# that list changes and not whenever the lock does.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS lock
COPY --from=tools /tools/bin/uv /usr/local/bin/uv
WORKDIR /src
COPY . .
RUN uv export --quiet --frozen --no-dev --no-emit-workspace --package capstan-operator -o /lock/operator.txt \
    && uv export --quiet --frozen --no-dev --no-emit-workspace --package capstan-agent --extra storage -o /lock/agent.txt \
    && uv export --quiet --frozen --no-dev --no-emit-workspace --package capstan-serving --extra cpu -o /lock/serving-cpu.txt \
    && uv export --quiet --frozen --no-dev --no-emit-workspace --package capstan-serving --extra gpu -o /lock/serving-gpu.txt \
    && uv export --quiet --frozen --no-dev --project examples/digits -o /lock/trainer-cuda.txt \
    && uv export --quiet --frozen --no-dev --project examples/digits -o /lock/trainer-cpu.txt \
        --no-emit-package triton

# What every image starts from: the user, and an empty virtual environment. uv is mounted where it is needed and stays
# outside; its settings do not. Without a cache it links what it unpacks instead of copying gigabytes. Bytecode is
# compiled here because a read-only root cannot keep it.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/capstan/bin:${PATH} \
    VIRTUAL_ENV=/opt/capstan \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN --mount=type=bind,from=tools,source=/tools/bin,target=/uv \
    groupadd --gid 65532 capstan \
    && useradd --no-log-init --uid 65532 --gid 65532 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin capstan \
    && mkdir -p /etc/uv \
    && printf '%s\n' 'system-certs = true' 'python-downloads = "never"' 'no-cache = true' \
        '[pip]' 'compile-bytecode = true' 'no-deps = true' >/etc/uv/uv.toml \
    && /uv/uv venv --quiet --python python3 /opt/capstan

# The serving wheel: the Rust front end and the Python around it.
FROM ${RUST_IMAGE} AS native-source
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
COPY serving /src
RUN --mount=type=bind,from=tools,source=/tools/bin,target=/uv \
    --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    /uv/uv build --quiet --system-certs --python /usr/bin/python3 --wheel --out-dir /dist \
        --build-constraints /src/build-constraints.txt --require-hashes /src

FROM scratch AS native-prebuilt
COPY dist/native /dist

# hadolint ignore=DL3006
FROM native-${NATIVE} AS native

# --- operator
FROM base AS operator-project
COPY operator /src
RUN --mount=type=bind,from=tools,source=/tools/bin,target=/uv \
    /uv/uv pip install --quiet --offline /src

FROM base AS operator
COPY --from=lock /lock/operator.txt /opt/capstan/requirements.txt
RUN --mount=type=bind,from=tools,source=/tools/bin,target=/uv \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    /uv/uv pip install --quiet --require-hashes --requirement /opt/capstan/requirements.txt
COPY --from=operator-project /opt/capstan /opt/capstan
USER 65532:65532
ENTRYPOINT ["capstan-operator"]
CMD ["run"]

# --- agent: nothing but its runtime, which brings its own interpreter and C library and copies itself into users' pods,
# without the library for object stores. A bundle of authorities of one's own is named in SSL_CERT_FILE.
FROM base AS agent-runtime
COPY --from=lock /lock/agent.txt /opt/capstan/requirements.txt
RUN --mount=type=bind,from=tools,source=/tools/bin,target=/uv \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    /uv/uv pip install --quiet --require-hashes --requirement /opt/capstan/requirements.txt
COPY agent /src
RUN PYTHONPATH=/src python3 -m capstan_agent install --termination-log /dev/null /opt/agent

FROM scratch AS agent
COPY --from=agent-runtime /opt/agent /opt/agent
COPY --from=base /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PATH=/opt/agent \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["capstan-agent"]

# --- serving
FROM base AS serving-project
COPY --from=native /dist /dist
RUN --mount=type=bind,from=tools,source=/tools/bin,target=/uv \
    /uv/uv pip install --quiet --offline /dist/*.whl

FROM base AS serving-cpu

# ONNX Runtime finds the libraries of the wheels by the loader's path: they lie in a dozen folders, so gather them in one.
FROM base AS serving-gpu
ENV LD_LIBRARY_PATH=/opt/capstan/lib/accelerator \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM serving-${VARIANT} AS serving
ARG VARIANT
COPY --from=lock /lock/serving-${VARIANT}.txt /opt/capstan/requirements.txt
RUN --mount=type=bind,from=tools,source=/tools/bin,target=/uv \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    /uv/uv pip install --quiet --require-hashes --requirement /opt/capstan/requirements.txt \
    && mkdir /opt/capstan/lib/accelerator \
    && find /opt/capstan/lib/python3.*/site-packages \( -path '*/nvidia/*' -o -path '*/tensorrt_libs/*' \) \
        -name '*.so*' -exec ln -s -t /opt/capstan/lib/accelerator {} +
COPY --from=serving-project /opt/capstan /opt/capstan
USER 65532:65532
EXPOSE 8000 8001 8002
ENTRYPOINT ["capstan-serving"]

# --- trainer: the example's programs and what they import. PyPI's PyTorch is linked with all of CUDA and starts only
# if it finds it. What is left out for a CPU is what it then never maps: Triton (above), and what cuDNN and NVSHMEM
# would load onto a GPU. The imports prove it, and leave the bytecode of what is used.
FROM base AS trainer
ARG DEVICE=cuda
ENV OMP_NUM_THREADS=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=lock /lock/trainer-${DEVICE}.txt /opt/capstan/requirements.txt
RUN --mount=type=bind,from=tools,source=/tools/bin,target=/uv \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    /uv/uv pip install --quiet --no-compile-bytecode --require-hashes --requirement /opt/capstan/requirements.txt \
    && if [ "${DEVICE}" = cpu ]; then \
        find /opt/capstan/lib/python3.*/site-packages/nvidia -type f \( -path '*/include/*' -o -name 'libcudnn_*' \
            -o -name 'libnvshmem_device*' -o -name 'libcusolverMg*' -o -name 'libnvperf*' \) -delete; \
    fi \
    && PYTHONDONTWRITEBYTECODE='' python -c 'import onnxruntime, onnxscript, sklearn.datasets, torch.distributed.run, \
torch.export, torch.nn.parallel, tritonclient.grpc, tritonclient.http'
# ONNX Runtime, which checks the exported model, reports home unless it is told not to.
ENV ORT_DISABLE_TELEMETRY=1
WORKDIR /app
COPY examples/digits/*.py ./
USER 65532:65532
CMD ["torchrun", "train.py"]

# --- prometheus: Debian's, for the demo. Its package is unpacked and not installed, so nothing of it is set up or run;
# with it come the scripts and fonts that its pages are made of.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS prometheus-package
WORKDIR /packages
RUN apt-get update \
    && apt-cache depends prometheus >/depends \
    && awk '/Depends: (libjs-|fonts-)/ {print $2}' /depends >/pages \
    && xargs -a /pages apt-get download prometheus \
    && for package in *.deb; do dpkg-deb --extract "$package" /unpacked || exit 1; done

FROM base AS prometheus
COPY --from=prometheus-package /unpacked/usr/bin/prometheus /unpacked/usr/bin/promtool /usr/bin/
COPY --from=prometheus-package /unpacked/usr/share /usr/share
USER 65532:65532
EXPOSE 9090
ENTRYPOINT ["prometheus"]
