"""Processes are known by what they carry, not by a number somebody wrote down."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from capstan_cluster import processes
from capstan_cluster.components import Component, components
from capstan_cluster.config import Config
from capstan_cluster.errors import ClusterError

OWNER = "/var/lib/capstan-cluster"
ETCD = Component("etcd", ("/cache/etcd", "--x"))


def fake(
    proc: Path,
    pid: int,
    *,
    owner=OWNER,
    component="etcd",
    exe="/cache/etcd",
    session=None,
    state="S",
    name="etcd",
):
    entry = proc / str(pid)
    entry.mkdir(parents=True)
    variables = {"PATH": "/bin", "CAPSTAN_CLUSTER_OWNER": owner, "CAPSTAN_CLUSTER_COMPONENT": component}
    variables["CAPSTAN_CLUSTER_GENERATION"] = "g1"
    (entry / "environ").write_bytes("\0".join(f"{k}={v}" for k, v in variables.items()).encode() + b"\0")
    fields = [
        str(pid),
        f"({name})",
        state,
        "1",
        str(pid),
        str(session or pid),
        *["0"] * 15,
        str(1000 + pid),
        "0",
    ]
    (entry / "stat").write_text(" ".join(fields))
    (entry / "exe").symlink_to(exe)


def test_a_component_is_found_by_its_environment(tmp_path):
    fake(tmp_path, 10)
    fake(tmp_path, 11, owner="/somewhere/else")
    (tmp_path / "12").mkdir()  # ended while we look: nothing to read
    found = processes.of_cluster(Config(), tmp_path)
    assert [(process.pid, process.started, process.generation) for process in found] == [(10, 1010, "g1")]
    assert processes.of_component(ETCD, found) == found


@pytest.mark.parametrize(
    "other",
    [
        {"exe": "/usr/sbin/iptables"},  # what a component has started
        {"session": 10},  # the same program, just forked
        {"component": "kubelet"},
    ],
)
def test_a_components_children_are_not_the_component(tmp_path, other):
    fake(tmp_path, 10)
    fake(tmp_path, 20, **other)
    assert [p.pid for p in processes.of_component(ETCD, processes.of_cluster(Config(), tmp_path))] == [10]


def test_the_dead_are_not_counted_and_odd_names_do_not_confuse(tmp_path):
    fake(tmp_path, 10, state="Z")
    fake(tmp_path, 11, name="a) Z (b", exe="/cache/etcd (deleted)")
    assert [p.pid for p in processes.of_component(ETCD, processes.of_cluster(Config(), tmp_path))] == [11]


@pytest.fixture
def config(tmp_path):
    yield Config(state_dir=tmp_path)
    while processes._children:  # each has ended; unreaped, it would be warned of when Python ends
        processes._children.pop().wait(10)


def sleeper(config, script="import time; time.sleep(60)"):
    component = Component("sleeper", (sys.executable, "-c", script))
    child = processes.start(config, component, "g")
    processes.wait_until("it", lambda: bool(processes.of_cluster(config)), seconds=10)
    return child, processes.of_cluster(config)


def test_a_process_is_started_in_a_session_of_its_own_and_stopped(config):
    child, found = sleeper(config)
    assert os.getsid(child.pid) == child.pid
    assert [process.pid for process in found] == [child.pid]
    processes.stop(config, found)
    assert not processes.of_cluster(config)


def test_one_that_ignores_the_request_is_killed(config):
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    script += "; print('on', flush=True); time.sleep(60)"
    _, found = sleeper(config, script)
    log = config.log("sleeper")
    processes.wait_until("it", lambda: "on" in log.read_text(), seconds=10)
    processes.stop(config, found, grace=0.2)
    assert not processes.of_cluster(config)


def test_a_process_that_has_got_the_same_id_since_is_left_alone(config):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as innocent:
        _, (found,) = sleeper(config)
        old = processes.Process(innocent.pid, found.started - 1, "etcd", "etcd", "g", leads_session=True)
        processes.stop(config, [old])
        assert innocent.poll() is None
        innocent.send_signal(signal.SIGTERM)
    processes.stop(config, [found])


def test_what_ended_by_itself_is_told_at_once_with_its_last_words(config):
    log = config.log("broken")
    child = processes.start(
        config, Component("broken", (sys.executable, "-c", "print('no disk'); raise SystemExit(1)")), "g"
    )
    with pytest.raises(ClusterError, match=r"ended by itself[\s\S]*no disk"):
        processes.wait_until("broken", lambda: False, seconds=30, alive=lambda: child.poll() is None, log=log)


def test_a_listening_port_is_seen(tmp_path):
    table = tmp_path / "net" / "tcp"
    table.parent.mkdir()
    line = "   0: 0100007F:192B 00000000:0000 {} 00000000:00000000 00:00000000 00000000 0 0 1\n"
    table.write_text("  sl local\n" + line.format("0A") + line.format("01").replace("192B", "192C"))
    assert processes.ports_in_use({"a": 0x192B, "b": 0x192C}, tmp_path) == {"a": 0x192B}


def test_a_generation_changes_with_arguments_and_with_the_files_they_name():
    kubelet = Component("kubelet", ("kubelet", "--config=/etc/k.yaml"))
    files = {"/etc/k.yaml": "a", "/etc/other": "b"}
    same = kubelet.generation({**files, "/etc/other": "changed"})
    assert kubelet.generation(files) == same
    assert kubelet.generation({**files, "/etc/k.yaml": "changed"}) != same
    assert Component("kubelet", ("kubelet", "--config=/etc/k.yaml", "-v")).generation(files) != same


def test_components_listen_on_ports_of_their_own_and_nothing_insecure_is_open_to_others():
    config = Config()
    argv = {c.name: c.argv for c in components(config, lambda name: Path("/bin") / name, "helper")}
    assert list(argv)[:3] == ["etcd", "containerd", "kube-apiserver"]
    assert "--client-cert-auth=true" in argv["etcd"]
    assert "--authorization-mode=Node,RBAC" in argv["kube-apiserver"]
    assert "--bind-address=127.0.0.1" in argv["kube-scheduler"]
    assert len(set(config.ports.values())) == len(config.ports)
