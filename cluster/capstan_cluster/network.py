"""The cluster's traces in the machine's network: an interface, firewall rules, a few kernel settings.

What is put there is found again by name, so that it can be removed whoever made it and however they ended.
"""

import json
import re
from pathlib import Path

from capstan_cluster.commands import Run, run
from capstan_cluster.config import Config

SYSCTLS = (
    "net/ipv4/ip_forward",
    # the kubelet and kube-proxy change these
    "net/ipv4/conf/all/route_localnet",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
)
_PROC_SYS = Path("/proc/sys")
_RULE = re.compile(r"^-A (?P<chain>\S+) ")


def prepare(config: Config, runner: Run = run) -> None:
    """Make interface, rules and settings be as the cluster needs them; what is right is left alone."""
    remember_sysctls(config)
    (_PROC_SYS / "net/ipv4/ip_forward").write_text("1")
    if not _has_interface(config, runner):
        runner(["ip", "link", "add", config.interface, "type", "bridge"])
    runner(["ip", "address", "replace", f"{config.address}/32", "dev", config.interface])
    runner(["ip", "link", "set", config.interface, "up"])
    # so that Services are reached from the node itself even where there is no default route
    services, source = str(config.service_cidr), str(config.address)
    runner(["ip", "route", "replace", services, "dev", config.interface, "src", source])
    present = runner(["iptables-save"])
    for table, rule in rules(config):
        if not _present(present, rule):
            runner(["iptables", "-w", "-t", table, "-I", *rule])


def _has_interface(config: Config, runner: Run) -> bool:
    """Ask the kernel itself, since /sys may show another network namespace's."""
    return any(link["ifname"] == config.interface for link in json.loads(runner(["ip", "-json", "link"])))


def _tag(config: Config) -> str:
    return f"capstan-cluster:{config.name}"


def rules(config: Config) -> list[tuple[str, list[str]]]:
    """Our rules (table, arguments): pods reach the world under the node's address, and are let through."""
    pods, tag = str(config.pod_cidr), ["-m", "comment", "--comment", _tag(config)]
    return [
        (
            "nat",
            [
                "POSTROUTING",
                "-s",
                pods,
                "!",
                "-d",
                pods,
                "!",
                "-o",
                config.interface,
                *tag,
                "-j",
                "MASQUERADE",
            ],
        ),
        ("filter", ["FORWARD", "-s", pods, *tag, "-j", "ACCEPT"]),
        ("filter", ["FORWARD", "-d", pods, *tag, "-j", "ACCEPT"]),
    ]


def _present(saved: str, rule: list[str]) -> bool:
    """Is the rule among those of `iptables-save`, which writes the same words in an order of its own?"""
    words = sorted(rule)
    return any(
        sorted(line.replace('"', "").split()[1:]) == words
        for line in saved.splitlines()
        if line.startswith("-A ")
    )


def is_ours(line: str, config: Config) -> bool:
    """Is this line of `iptables-save` a chain or rule of the cluster: ours, or Kubernetes'?"""
    if line.startswith(":"):
        return line.startswith(":KUBE-")
    return line.startswith("-A ") and (
        bool(re.search(r"(^-A|-j|-g) KUBE-", line))
        or bool(re.search(rf'"?{re.escape(_tag(config))}"?( |$)', line))
    )


def removal(saved: str, config: Config) -> str:
    """From `iptables-save`'s output, `iptables-restore --noflush`'s input that removes all that is ours."""
    result: list[str] = []
    table: list[str] = []
    chains: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            table, chains = [line], []
        elif line == "COMMIT":
            if len(table) > 1 or chains:
                # naming a chain creates or flushes it; only then can it be deleted
                result += [
                    table[0],
                    *(f":{c} - [0:0]" for c in chains),
                    *table[1:],
                    *(f"-X {c}" for c in chains),
                    line,
                ]
        elif is_ours(line, config):
            if line.startswith(":"):
                chains.append(line[1:].split()[0])
            elif (match := _RULE.match(line)) and not match["chain"].startswith("KUBE-"):
                table.append(f"-D{line[2:]}")
    return "".join(f"{line}\n" for line in result)


def foreign_kubernetes(saved: str) -> bool:
    """Does `iptables-save` show the Services of a Kubernetes?"""
    return ":KUBE-SERVICES " in saved


def remove(config: Config, runner: Run = run) -> None:
    """Remove the interface and every rule of the cluster, and set the kernel as it was."""
    if _has_interface(config, runner):
        runner(["ip", "link", "delete", config.interface])
    for family in ("iptables", "ip6tables"):
        script = removal(runner([f"{family}-save"]), config)
        if script:
            runner([f"{family}-restore", "-w", "--noflush"], stdin=script)
    restore_sysctls(config)


def remember_sysctls(config: Config) -> None:
    """Write down the settings as they were before us, once."""
    path = config.state_dir / "sysctls.json"
    if not path.exists():
        before = {name: (_PROC_SYS / name).read_text().strip() for name in SYSCTLS}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(before))
        new.replace(path)


def restore_sysctls(config: Config) -> None:
    """Set what differs from what was written down."""
    path = config.state_dir / "sysctls.json"
    if path.exists():
        for name, value in json.loads(path.read_text()).items():
            setting = _PROC_SYS / name
            if setting.read_text().strip() != value:
                setting.write_text(value)
