"""The image of the node's own helper program, written as an OCI archive without any image builder."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

REPOSITORY = "localhost/capstan-node-helper"


def reference(key: str) -> str:
    """The image's name, for a build of the program with this key."""
    return f"{REPOSITORY}:{key}"


def archive(program: bytes, name: str) -> bytes:
    """An OCI archive with one layer, the static program as /pause and /volume; the same bytes each time."""
    layer = _tar({"pause": program, "volume": program}, mode=0o755)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    kind = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(f"{kind}.config.v1+json", config),
            "layers": [_descriptor(f"{kind}.layer.v1.tar", layer)],
        }
    ).encode()
    annotations = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [{**_descriptor(f"{kind}.manifest.v1+json", manifest), "annotations": annotations}],
        }
    ).encode()
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, config, manifest)}
    return _tar({"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": index, **blobs}, mode=0o644)


def write(program: Path, name: str, target: Path) -> None:
    """Write the archive of the program's file to `target`."""
    target.write_bytes(archive(program.read_bytes(), name))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
