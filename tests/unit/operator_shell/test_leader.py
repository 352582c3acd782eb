"""One of several operators acts, nothing is written without a lease, and the next one takes over."""

import asyncio
from typing import Any

import pytest
from capstan_operator.core.model import ObjectRef
from capstan_operator.shell.client import KubernetesApi
from capstan_operator.shell.errors import Fenced
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.leader import Elector, Terms
from capstan_operator.shell.metrics import Metrics
from kubernetes.aio.client import Configuration

CONFIGMAPS = Resource("v1", "ConfigMap", "configmaps")
A = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}}
REF = ObjectRef("v1", "ConfigMap", "ns", "a")
ELECT = ("--leader-elect", "true", "--lease-namespace", "ns", "--lease-duration", "5")


def lease(cluster: Any) -> Any:
    return (cluster.objects.get(("leases", "ns", "capstan-operator")) or {}).get("spec") or {}


@pytest.fixture
async def fenced(cluster: Any, metrics: Metrics) -> Any:
    """A client and what its fence answers, one after the other."""
    answers: list[bool] = []
    api = KubernetesApi(Configuration(host=cluster.url), metrics, lambda: answers.pop(0))
    yield api, answers
    await api.close()


async def test_behind_the_fence_nothing_is_written_and_all_is_read(
    cluster: Any, fenced: Any, metrics: Metrics
) -> None:
    api, answers = fenced
    made = cluster.put("configmaps", A)
    writes = (
        lambda: api.apply(CONFIGMAPS, A),
        lambda: api.delete(CONFIGMAPS, REF),
        lambda: api.put_status(CONFIGMAPS, made, {}),
        lambda: api.create(CONFIGMAPS, A),
        lambda: api.replace(CONFIGMAPS, made),
        lambda: api.merge(CONFIGMAPS, "ns", "a", {}),
    )
    for write in writes:
        answers[:] = [False]
        with pytest.raises(Fenced):
            await write()
    assert cluster.requests == []
    assert await api.get(CONFIGMAPS, "ns", "a") is not None
    assert 'api_requests_total{code="fenced",verb="apply"} 1.0' in metrics.render().decode()
    answers[:] = [True]
    await api.delete(CONFIGMAPS, REF)
    assert cluster.writes() == ["DELETE /api/v1/namespaces/ns/configmaps/a"]


async def test_a_request_that_the_library_sends_again_passes_the_fence_again(
    cluster: Any, fenced: Any
) -> None:
    api, answers = fenced
    made = cluster.put("widgets", {"apiVersion": "test.dev/v1", "kind": "Widget", "metadata": {"name": "w"}})
    cluster.fail("PUT", 0)
    answers[:] = [True, False]
    with pytest.raises(Fenced):
        await api.put_status(Resource("test.dev/v1", "Widget", "widgets"), made, {"phase": "x"})
    assert len(cluster.writes()) == 1


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def electors(api: KubernetesApi) -> Any:
    clock = Clock()
    return clock, *(Elector(api, "ns", "capstan-operator", Terms(10), name, clock) for name in ("one", "two"))


async def test_a_lease_is_made_renewed_and_runs_out(cluster: Any, electors: Any) -> None:
    clock, one, two = electors
    await one.attempt()
    assert one.leads()
    first = lease(cluster)
    assert (first["holderIdentity"], first["leaseDurationSeconds"], first["leaseTransitions"]) == (
        "one",
        10,
        0,
    )
    await two.attempt()
    assert not two.leads()
    clock.now += 6.9
    assert one.leads()
    await one.attempt()
    assert cluster.requests[-1].startswith("PUT"), "a renewal is one request"
    assert lease(cluster)["acquireTime"] == first["acquireTime"]
    clock.now += 6.9
    await two.attempt()
    assert not two.leads(), "it has seen the renewal only now"
    clock.now += 0.2
    assert not one.leads(), "the holder gives up well before"
    clock.now += 9.7
    await two.attempt()
    assert not two.leads()
    clock.now += 0.2
    await two.attempt()
    assert two.leads()
    assert (lease(cluster)["holderIdentity"], lease(cluster)["leaseTransitions"]) == ("two", 1)
    await one.attempt()
    assert not one.leads()


async def test_given_back_it_is_free_at_once(cluster: Any, electors: Any) -> None:
    _, one, two = electors
    await one.attempt()
    await two.attempt()
    await two.give_back()
    assert lease(cluster)["holderIdentity"] == "one", "only the holder gives it back"
    await one.give_back()
    assert not one.leads()
    await two.attempt()
    assert two.leads()


async def test_a_lease_deleted_under_its_holder_is_not_free(cluster: Any, electors: Any) -> None:
    clock, one, two = electors
    await one.attempt()
    await two.attempt()
    cluster.delete("leases", "ns", "capstan-operator")
    await two.attempt()
    assert not two.leads()
    assert one.leads()
    clock.now += 10
    await two.attempt()
    assert two.leads()


async def test_a_record_without_sense_is_taken_over(cluster: Any, electors: Any) -> None:
    clock, one, _ = electors
    cluster.put("leases", {"kind": "Lease", "metadata": {"name": "capstan-operator"}, "spec": None})
    await one.attempt()
    assert one.leads()
    cluster.put(
        "leases", {"kind": "Lease", "metadata": {"name": "capstan-operator"}, "spec": {"holderIdentity": "x"}}
    )
    clock.now += 8
    await one.attempt()
    assert not one.leads()
    clock.now += 10
    await one.attempt()
    assert one.leads()


async def test_an_election_that_stands_still_is_told(electors: Any) -> None:
    clock, one, _ = electors
    assert one.turning()
    one._turned = clock.now
    clock.now += 29
    assert one.turning()
    clock.now += 2
    assert not one.turning()


async def test_work_that_fails_ends_the_election_and_gives_the_lease_back(
    cluster: Any, electors: Any
) -> None:
    _, one, _ = electors

    async def lead() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(one.run(lead), 20)
    assert lease(cluster)["holderIdentity"] == ""


async def test_who_loses_the_lease_between_two_turns_and_takes_it_again_begins_anew(
    cluster: Any, electors: Any, until: Any
) -> None:
    clock, one, two = electors
    begun: list[float] = []

    async def lead() -> None:
        begun.append(clock.now)
        await asyncio.Event().wait()

    task = asyncio.create_task(one.run(lead))
    await until(lambda: begun)
    await two.attempt()
    clock.now += 11
    await two.attempt()
    await two.give_back()
    assert lease(cluster)["leaseTransitions"] == 1
    await until(lambda: len(begun) == 2, 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_who_takes_over_what_cannot_all_be_listed_leads_the_rest(
    cluster: Any, start: Any, widget: Any, until: Any
) -> None:
    it = start(*ELECT, "--namespaces", "ns,ns2")
    await it.becomes("/readyz", 200)
    await until(lambda: lease(cluster).get("holderIdentity"))
    cluster.fail("/namespaces/ns2/widgets[?]limit", 403, times=10**6)
    cluster.fail("/leases", 503, times=10**6)
    await it.shows("capstan_operator_leader", 0)
    del cluster.faults[1:]
    await it.shows("capstan_operator_leader", 1)
    widget(children=["a"])
    await until(lambda: ("configmaps", "ns", "a") in cluster.objects, 30)


async def test_two_operators_of_which_one_acts(
    cluster: Any, start: Any, widget: Any, until: Any, unused_tcp_port_factory: Any
) -> None:
    first = start(*ELECT)
    await until(lambda: lease(cluster).get("holderIdentity"))
    second = start(*ELECT, "--metrics-port", str(unused_tcp_port_factory()))
    await second.becomes("/readyz", 200)
    await second.heard_of()
    holder = lease(cluster)["holderIdentity"]
    widget(children=["a"])
    await until(lambda: cluster.objects["widgets", "ns", "w"].get("status"))
    assert (
        await first.sample("capstan_operator_leader"),
        await second.sample("capstan_operator_leader"),
    ) == (1, 0)
    assert await second.sample("capstan_operator_queue_depth") == 0
    fleet = ["capstan_trainingjob_ready" in (await it.get("/metrics"))[1] for it in (first, second)]
    assert fleet == [True, False], "one tells about the fleet"
    assert await second.sample("capstan_operator_reconciles_total") == 0

    assert await first.end() is True
    assert lease(cluster)["holderIdentity"] == ""
    cluster.delete("configmaps", "ns", "a")
    await until(lambda: ("configmaps", "ns", "a") in cluster.objects)
    assert lease(cluster)["holderIdentity"] not in ("", holder)
    assert await second.sample("capstan_operator_leader") == 1


async def test_who_cannot_renew_stops_and_starts_again(
    cluster: Any, start: Any, widget: Any, until: Any
) -> None:
    it = start(*ELECT)
    widget(children=["a"])
    await until(lambda: ("configmaps", "ns", "a") in cluster.objects)
    cluster.fail("/leases", 503, times=10**6)
    await it.shows("capstan_operator_leader", 0)
    written = len(cluster.writes())
    widget("later", children=["b"])
    cluster.delete("configmaps", "ns", "a")
    await until(lambda: sum("/leases" in r for r in cluster.requests[-30:]) > 2, 20)
    assert [line for line in cluster.writes()[written:] if "/leases" not in line] == []
    assert (await it.get("/healthz"))[0] == 200
    cluster.faults.clear()
    await until(lambda: {"a", "b"} <= {c["metadata"]["name"] for c in cluster.listed("configmaps")}, 20)


async def test_it_does_not_stand_before_it_sees(cluster: Any, start: Any, until: Any) -> None:
    cluster.fail("/configmaps", 403, times=10**6)
    it = start(*ELECT)
    await it.heard_of()
    await until(lambda: sum("/configmaps" in line for line in cluster.requests) > 2)
    assert not any("/leases" in line for line in cluster.requests)
    cluster.faults.clear()
    await until(lambda: lease(cluster).get("holderIdentity"), 20)
