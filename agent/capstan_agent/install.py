"""`capstan-agent install`: a folder with everything the agent needs to run in anybody's container.

    DIR/run, DIR/capstan-agent      the launcher (launcher.S), under its two names
    DIR/lib/ld.so, DIR/lib/*.so*    the C library's loader and the shared libraries
    DIR/bin/python3                 the interpreter
    DIR/lib/pythonX.Y.zip           its standard library, as far as it is used, and this package, compiled
    DIR/lib/pythonX.Y/              what cannot be in an archive: os.pyc, by which Python finds its home, and
                                    the extension modules
    DIR/python/capstan.py           what users' programs may import
    DIR/fetch/                      what only sources on the network need: TLS, obstore. Not copied into pods,
                                    nor are the links in DIR/lib to its shared libraries

Run by an ordinary Python (in the agent image's build) it gathers these; run from such a folder (in an init
container) it copies that folder.
"""

import importlib.util
import json
import marshal
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path

from capstan_agent.errors import AgentError
from capstan_agent.launcher import launcher

_LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
ENTRY = "run"
_NAMES = (ENTRY, "capstan-agent")

# Parts of the standard library that a supervisor and a fetcher have no use for; together most of its size.
_LEFT_OUT = frozenset(
    (
        *(
            "__phello__",
            "__pycache__",
            "_pydecimal",
            "asyncio",
            "concurrent",
            "ctypes",
            "curses",
            "dbm",
            "distutils",
        ),
        *(
            "dist-packages",
            "ensurepip",
            "idlelib",
            "lib-dynload",
            "lib2to3",
            "multiprocessing",
            "pydoc",
            "pydoc_data",
            "python",  # of ours: users' interpreters read it, not this one
        ),
        *("site-packages", "sqlite3", "test", "tests", "tkinter", "turtle", "turtledemo", "unittest", "venv"),
        *("wsgiref", "xml", "xmlrpc"),
    )
)

# What the agent imports, asked of an interpreter that has imported it: first what the runner needs too, then
# what only the network does. Object stores are left out: their library is no part of Python.
_PROBE = """
import importlib, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import capstan_agent
names = [module.name for module in pkgutil.walk_packages(capstan_agent.__path__, "capstan_agent.")]
remote = [name for name in names if name.startswith("capstan_agent.remote")]
def extensions(wanted):
    for name in wanted:
        importlib.import_module(name)
    files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
    return [file for file in files if file.endswith(".so")]
local = extensions([name for name in names if name not in remote])
both = extensions([name for name in remote if not name.endswith(".objects")])
print(json.dumps({"stdlib": importlib.__path__[0], "local": local, "remote": sorted(set(both) - set(local))}))
"""
FETCH = "fetch"
_OBSTORE = ("__init__.py", "store.py", "_obstore.abi3.so")
_HELPER = Path(__file__).resolve().parent / "python" / "capstan.py"
_SHARED = re.compile(r"^\s*(\S+) => (/\S+) \(0x", re.MULTILINE)


class InstallFailed(AgentError):
    """The runtime could not be gathered or copied."""

    exit_class = "infrastructure"


@dataclass(frozen=True, slots=True)
class _Parts:
    executable: Path
    stdlib: Path
    extensions: tuple[Path, ...]
    libraries: Mapping[str, Path]
    remote: tuple[Path, ...]
    """What only fetching over the network needs, in the same two kinds."""
    remote_libraries: Mapping[str, Path]
    obstore: Path | None


def install(target: Path) -> None:
    """Make `target` a self-contained runtime; it may exist, and is complete once `target/run` is there."""
    home = Path(sys.executable).resolve().parent.parent
    try:
        target.mkdir(parents=True, exist_ok=True)
        (target / ENTRY).unlink(missing_ok=True)
        if (home / ENTRY).is_file() and (home / "lib" / "ld.so").is_file():
            _copy_tree(home, target)
        else:
            _gather(target)
        for name in reversed(_NAMES):
            _write(target / name, launcher(), executable=True)
    except OSError as error:
        raise InstallFailed(
            f"The runner cannot be put into {target}: {error.strerror} ({error.filename}). The folder must be"
            " a writable volume with some 20 MB of room."
        ) from error


def _copy_tree(home: Path, target: Path) -> None:
    for source in sorted(home.rglob("*")):
        relative = source.relative_to(home)
        if source.is_symlink() or relative.parts[0] == FETCH or relative.name in _NAMES:
            continue
        if source.is_file():
            _copy(source, target / relative)


def _gather(target: Path) -> None:
    parts = _parts()
    _copy(parts.executable, target / "bin" / "python3", executable=True)
    _copy(_LOADER.resolve(), target / "lib" / "ld.so", executable=True)
    for name, path in parts.libraries.items():
        _copy(path, target / "lib" / name)
    dynamic = target / "lib" / _VERSION / "lib-dynload"
    dynamic.mkdir(parents=True, exist_ok=True)
    for path in parts.extensions:
        _copy(path, dynamic / path.name)
    _copy(_HELPER, target / "python" / _HELPER.name)
    _gather_fetch(parts, target)
    _write(target / "lib" / _VERSION / "os.pyc", _compiled(parts.stdlib / "os.py"))
    _archive(parts, target / "lib" / f"{_VERSION.replace('.', '')}.zip")


def _parts() -> _Parts:
    if not _LOADER.exists():
        raise InstallFailed(f"The runtime is gathered on x86-64 with glibc only: there is no {_LOADER} here.")
    package = Path(__file__).resolve().parent
    probe = subprocess.run(
        [sys.executable, "-ISBc", _PROBE, str(package.parent)], check=True, capture_output=True, text=True
    )
    found = json.loads(probe.stdout)
    executable = Path(sys.executable).resolve()
    extensions, remote = (tuple(map(Path, sorted(found[name]))) for name in ("local", "remote"))
    specification = importlib.util.find_spec("obstore")
    obstore = Path(specification.origin).parent if specification and specification.origin else None
    libraries = _libraries((executable, *extensions))
    others = _libraries((*remote, *((obstore / _OBSTORE[-1],) if obstore else ())))
    return _Parts(
        executable,
        Path(found["stdlib"]).parent,
        extensions,
        libraries,
        remote,
        {name: path for name, path in others.items() if name not in libraries},
        obstore,
    )


def _libraries(programs: Iterable[Path]) -> dict[str, Path]:
    """The shared libraries of programs and extension modules, by the names they are asked for."""
    libraries: dict[str, Path] = {}
    for path in programs:
        listed = subprocess.run([_LOADER, "--list", path], check=True, capture_output=True, text=True)
        libraries.update({name: Path(place) for name, place in _SHARED.findall(listed.stdout)})
    return libraries


def _gather_fetch(parts: _Parts, target: Path) -> None:
    folder = target / FETCH
    for path in parts.remote:
        _copy(path, folder / path.name)
    for name, path in parts.remote_libraries.items():
        _copy(path, folder / "lib" / name)
        link = target / "lib" / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..", FETCH, "lib", name))
    if parts.obstore is not None:
        for name in _OBSTORE:
            source = parts.obstore / name
            if source.suffix == ".py":
                compiled = folder / "obstore" / f"{source.stem}.pyc"
                compiled.parent.mkdir(parents=True, exist_ok=True)
                _write(compiled, _compiled(source))
            else:
                _copy(source, folder / "obstore" / name)


def _archive(parts: _Parts, target: Path) -> None:
    """The modules, compiled, in an archive that is the same for the same input."""
    package = Path(__file__).resolve().parent
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for root in (parts.stdlib, package):
            for source in _sources(root):
                name = source.relative_to(package.parent if root == package else root).with_suffix(".pyc")
                entry = zipfile.ZipInfo(str(name), (1980, 1, 1, 0, 0, 0))
                archive.writestr(entry, _compiled(source), zipfile.ZIP_DEFLATED)
    target.chmod(0o644)


def _sources(root: Path) -> Iterator[Path]:
    for entry in sorted(root.iterdir()):
        if entry.name in _LEFT_OUT or entry.stem in _LEFT_OUT or entry.name.startswith("config-"):
            continue
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.suffix == ".py":
            yield entry


def _compiled(source: Path) -> bytes:
    """The bytecode file of a module, marked never to be compared with its source, which stays behind."""
    code = SourceFileLoader(source.stem, str(source)).get_code(source.stem)
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def _copy(source: Path, target: Path, *, executable: bool = False) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if executable or source.stat().st_mode & stat.S_IXUSR else 0o644)


def _write(target: Path, data: bytes, *, executable: bool = False) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(data)
    partial.chmod(0o755 if executable else 0o644)
    os.replace(partial, target)  # noqa: PTH105
