"""The start-up table: what is served, where, by what."""

from collections.abc import Iterable, Sequence

from capstan_serving.catalog import Entry


def render(doors: Sequence[tuple[str, str]], entries: Iterable[Entry]) -> str:
    """Doors are names and addresses."""
    rows = [("door", "address"), *doors]
    models = [("model", "version", "state", "providers", "inputs -> outputs"), *map(_row, entries)]
    if len(models) == 1:
        models.append(("(none)", "", "", "", ""))
    return f"{_columns(rows)}\n\n{_columns(models)}\n"


def _row(entry: Entry) -> tuple[str, ...]:
    version = str(entry.version) if entry.version else "-"
    if entry.loaded is None:
        return entry.name, version, entry.state, "-", entry.reason
    signature = entry.loaded.signature
    inputs, outputs = (", ".join(map(str, specs)) for specs in (signature.inputs, signature.outputs))
    return (
        entry.name,
        version,
        entry.state,
        ", ".join(entry.loaded.backend.providers),
        f"{inputs} -> {outputs}",
    )


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)
