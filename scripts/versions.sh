# The versions of the tools that scripts/bootstrap provides or asks for.
UV_MINIMUM=0.13.0
UV_VERSION=0.13.9
GO_VERSION=1.26.6
RUST_MINIMUM=1.88.0
