# What every script here starts from; sourced in the repository's root.

# The versions of the tools that scripts/bootstrap provides or asks for. (The Dockerfile has uv's too; a test binds them.)
UV_MINIMUM=0.13.0
UV_VERSION=0.13.9
UV_SHA256=d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19
GO_VERSION=1.26.6
GO_SHA256=565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff
RUST_MINIMUM=1.88.0
CARGO_AUDIT_VERSION=0.22.2

PYTHON_SOURCES="operator serving agent cluster images demo examples scripts tests"
CRATE=serving/native/Cargo.toml

# A login without HOME, or a root shell without the system's programs on PATH, is no reason to fail.
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
: "${CAPSTAN_CACHE:=$HOME/.cache/capstan}"
TOOLS=$CAPSTAN_CACHE/tools
PATH=$TOOLS/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
UV_PYTHON_DOWNLOADS=never
export HOME CAPSTAN_CACHE PATH UV_PYTHON_DOWNLOADS
