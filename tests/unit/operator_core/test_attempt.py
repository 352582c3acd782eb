"""How an attempt stands, whichever of its Job and its pods is seen first."""

from datetime import UTC, datetime, timedelta
from typing import Any

from capstan_operator.core.policies.attempt import PATIENCE, STUCK, standing

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


def job(*conditions: str, ago: float = 1, **metadata: Any) -> dict[str, Any]:
    since = (NOW - timedelta(seconds=ago)).isoformat()
    return {
        "metadata": metadata,
        "status": {
            "conditions": [{"type": c, "status": "True", "lastTransitionTime": since} for c in conditions]
        },
    }


def test_without_a_job_there_is_none() -> None:
    assert standing(None, [], False, NOW).state == "absent"
    assert standing(job(deletionTimestamp="2026-01-01T00:00:00Z"), [], False, NOW).state == "absent"


def test_pods_that_run(make_pod: Any) -> None:
    assert standing(job(), [make_pod(trainer={"running": {}})], False, NOW).state == "active"


def test_complete(make_pod: Any) -> None:
    running = [make_pod(trainer={"running": {}})]
    assert standing(job("Complete"), running, False, NOW).state == "succeeded"
    waiting = standing(job("Complete"), running, True, NOW)
    assert waiting.state == "ending", "what replica 0 says of its output is not seen yet"
    assert waiting.look_again is not None
    assert standing(job("Complete"), [make_pod(phase="Succeeded")], True, NOW).state == "succeeded"
    assert standing(job("Complete", ago=PATIENCE + 1), running, True, NOW).state == "succeeded"


def test_failed(make_pod: Any, ended: Any) -> None:
    dead = make_pod(phase="Failed", trainer=ended(3))
    assert standing(job("Failed"), [dead, make_pod(1, trainer={"running": {}})], False, NOW).state == "ending"
    found = standing(job("Failed"), [dead], False, NOW)
    assert found.state == "failed"
    assert found.failure is not None
    assert found.failure.exit_code == 3
    gone = standing(job("Failed"), [], False, NOW)
    assert gone.failure is not None
    assert gone.failure.reason == "PodLost"


def test_a_job_that_cannot_finish_failing_is_not_waited_for_for_ever(make_pod: Any, ended: Any) -> None:
    pods = [make_pod(phase="Failed", trainer=ended(3)), make_pod(1, trainer={"running": {}})]
    assert standing(job("FailureTarget"), pods, False, NOW).state == "ending"
    assert standing(job("FailureTarget", ago=STUCK + 1), pods, False, NOW).state == "failed"


def test_a_gang_that_loses_a_pod_has_failed_at_once(make_pod: Any, ended: Any) -> None:
    going = make_pod(1, deleted="2026-01-01T00:10:30Z", trainer={"running": {}})
    found = standing(job(), [make_pod(trainer={"running": {}}), going], False, NOW)
    assert found.state == "failed"
    assert found.failure is not None
    assert found.failure.reason == "PodDeleted"
    user = make_pod(0, phase="Failed", trainer=ended(3, "2026-01-01T00:09:00Z"))
    assert standing(job(), [user, going], False, NOW).state == "active", "the Job is about to fail by itself"
    assert standing(job("SuccessCriteriaMet"), [going], False, NOW).state == "active"


def test_pods_that_end_for_anothers_success_are_not_lost(make_pod: Any) -> None:
    """Pods are heard of apart from their Job: its condition, which came first, may be seen last."""
    going = make_pod(1, deleted="2026-01-01T00:10:30Z", trainer={"running": {}})
    done, runs = make_pod(phase="Succeeded"), make_pod(trainer={"running": {}})
    enough = job() | {"spec": {"successPolicy": {"rules": [{"succeededIndexes": "0"}]}}}
    assert standing(enough, [done, going], False, NOW).state == "active"
    assert standing(enough, [runs, going], False, NOW).state == "failed", "nobody has succeeded yet"
    assert standing(job(), [done, going], False, NOW).state == "failed", "all have to succeed"
