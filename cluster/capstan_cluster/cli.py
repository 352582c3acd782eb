"""The command line: `capstan-cluster --help`."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from capstan_cluster import preflight
from capstan_cluster.build import CLUSTER_MODULES, MODULES, Builder, module_of
from capstan_cluster.cluster import Cluster
from capstan_cluster.config import Config
from capstan_cluster.errors import ClusterError
from capstan_cluster.target import delete_with_docker

_EPILOG = """\
every option can also be set in the environment, as CAPSTAN_CLUSTER_STATE_DIR and so on;
CAPSTAN_CACHE (default ~/.cache/capstan) is where built programs are kept
"""


def parser() -> argparse.ArgumentParser:
    """What the command line understands."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("the cluster")
    defaults = Config()
    group.add_argument("--state-dir", metavar="DIR", help=f"where it keeps everything ({defaults.state_dir})")
    group.add_argument("--name", help=f"names its node and its control group ({defaults.name})")
    group.add_argument("--pod-cidr", metavar="CIDR", help=f"the pods' network ({defaults.pod_cidr})")
    group.add_argument(
        "--service-cidr", metavar="CIDR", help=f"the services' network ({defaults.service_cidr})"
    )
    group.add_argument("--interface", help=f"the network interface that is made ({defaults.interface})")
    group.add_argument("--first-port", metavar="PORT", help=f"the first of its ports ({defaults.first_port})")
    group.add_argument("--gpus", metavar="N", help=f"the accelerators its node offers ({defaults.gpus})")

    result = argparse.ArgumentParser(
        prog="capstan-cluster",
        description="A real Kubernetes on this machine, from upstream Go modules.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[options])
        added.set_defaults(run=run)
        return added

    command("preflight", "say what this machine lacks, and what to do about it", _preflight)
    command("up", "build what is missing and boot the cluster; mends one that is broken", _up)
    command("down", "take the cluster down and remove all it left on this machine", _down)
    command("status", "each component, its process and its health", _status)
    command("kubeconfig", "print the path of the administrator's kubeconfig", _kubeconfig)
    load = command("load", "bring images from buildah's storage to the node", _load)
    load.add_argument("image", nargs="+")
    build = command("build", "build programs into the cache; without names, all the cluster needs", _build)
    build.add_argument("tool", nargs="*", help=f"of {', '.join(module.name for module in MODULES)}")
    path = command("path", "print the path of a built program, such as kubectl or helm", _path)
    path.add_argument("program")
    return result


def _config(arguments: argparse.Namespace) -> Config:
    fields = ("state_dir", "name", "pod_cidr", "service_cidr", "interface", "first_port", "gpus")
    return Config.load(**{field: getattr(arguments, field) for field in fields})


class _Progress:
    """Tells progress on standard error, with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {line}", file=sys.stderr, flush=True)


def _preflight(arguments: argparse.Namespace) -> int:
    if found := preflight.problems(config := _config(arguments), preflight.gather(config, Builder())):
        print(preflight.report(found), file=sys.stderr)
        return 1
    print("this machine has all that the cluster needs")
    return 0


def _up(arguments: argparse.Namespace) -> int:
    Cluster(_config(arguments), _Progress()).up()
    return 0


def _down(arguments: argparse.Namespace) -> int:
    if not delete_with_docker(_config(arguments), _Progress()):
        Cluster(_config(arguments), _Progress()).down()
    return 0


def _status(arguments: argparse.Namespace) -> int:
    found = Cluster(_config(arguments), _Progress()).status()
    if not found:
        print("there is no cluster here")
        return 1
    for component in found:
        state = "healthy" if component.healthy else "unhealthy" if component.pid else "not running"
        print(f"{component.name:<24} {component.pid or '-':>8}  {state}")
    return 0 if all(component.healthy for component in found) else 1


def _kubeconfig(arguments: argparse.Namespace) -> int:
    print(_config(arguments).kubeconfig)
    return 0


def _load(arguments: argparse.Namespace) -> int:
    Cluster(_config(arguments), _Progress()).load(arguments.image)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    wanted = {module_of(tool).name for tool in arguments.tool}
    modules = tuple(module for module in MODULES if module.name in wanted) or CLUSTER_MODULES
    Builder().build(modules, _Progress())
    return 0


def _path(arguments: argparse.Namespace) -> int:
    path = Builder().path(arguments.program)
    if not path.exists():
        raise ClusterError(f"{arguments.program} is not built", f"capstan-cluster build {arguments.program}")
    print(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a ClusterError is told without a traceback."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ClusterError as error:
        print(f"capstan-cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
