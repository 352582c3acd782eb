"""What a report may hold, who may report, and what becomes of it in the status and in the pods."""

from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from capstan_operator.api.crd import schema
from capstan_operator.api.training_job import TrainingJob
from capstan_operator.core import conditions, get
from capstan_operator.core.model import Endpoint, Manifest, Observed, Report, Settings
from capstan_operator.core.training import plan, progress

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
QUIET = Settings(agent_image="agent:1", serving_image="serving:1")
HEARING = Settings("agent:1", "serving:1", reports=Endpoint("https://capstan:8443/v1/progress", "PEM"))
SPEC = {"framework": "pytorch", "image": "train:1", "command": ["torchrun", "train.py"]}


def job(status: Manifest | None = None, **spec: Any) -> Manifest:
    metadata = {"name": "digits", "namespace": "ns", "uid": "job", "generation": 1}
    found = {"apiVersion": "capstan.dev/v1alpha1", "kind": "TrainingJob", "metadata": metadata}
    return found | {"spec": SPEC | spec} | ({"status": status} if status else {})


def live(settings: Settings, attempt: int = 1) -> Manifest:
    made = plan.plan(job({"attempt": attempt}), Observed(), NOW, settings).apply[-1]
    return {**made, "metadata": made["metadata"] | {"uid": f"batch-{attempt}"}}


def pod(attempt: int = 1, index: int = 0, **changes: Any) -> Manifest:
    owner = {"kind": "Job", "name": f"digits-worker-{attempt}", "uid": f"batch-{attempt}", "controller": True}
    labels = {"batch.kubernetes.io/job-completion-index": str(index), "capstan.dev/attempt": str(attempt)}
    metadata = {"name": f"pod-{index}", "uid": f"pod-{index}", "labels": labels, "ownerReferences": [owner]}
    running = {"name": "trainer", "state": {"running": {}}, "ready": True, "image": "", "restartCount": 0}
    status = {"phase": "Running", "containerStatuses": [running]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": status} | changes


def report(step: int | None = 1200, total: int | None = 5000, **more: Any) -> Report:
    return Report(**{"attempt": 1, "time": NOW, "step": step, "total": total} | more)


def status(heard: Report | None, before: Manifest | None = None, settings: Settings = HEARING) -> Manifest:
    seen = Observed(children=(live(settings), pod()), report=heard)
    return plan.plan(job(before or {"attempt": 1}), seen, NOW, settings).status


# --- reports


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        {"step": "1"},
        {"step": -1},
        {"step": 1.5},
        {"step": True},
        {"step": 1 << 60},
        {"total": []},
        {"remaining": "soon"},
        {"metrics": [1]},
        {"metrics": {"loss": "low"}},
        {"metrics": {"loss": float("nan")}},
        {"metrics": {"loss": float("inf")}},
        {"metrics": {"loss": 10**400}},
        {"metrics": {"a b": 1}},
        {"metrics": {"x" * 64: 1}},
        {"metrics": {f"m{n}": 1 for n in range(progress.METRICS + 1)}},
    ],
)
def test_a_report_of_another_shape_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        progress.parsed(body, 1, NOW)


def test_a_report() -> None:
    body = {"step": 3, "total": 4, "remaining": 60, "metrics": {"loss": 1}, "of another release": {}}
    assert progress.parsed(body, 2, NOW) == Report(2, NOW, 3, 4, 60, {"loss": 1.0})


def test_a_report_of_a_checkpoint() -> None:
    body = {"checkpoint": {"step": 3, "time": 1767225600, "name": "step-3-attempt-1"}}
    found = progress.parsed(body, 1, NOW)
    assert found.checkpoint == (3, datetime(2026, 1, 1, tzinfo=UTC), "step-3-attempt-1")


@pytest.mark.parametrize(
    "found",
    [
        [],
        {"step": 3},
        {"step": 3, "time": 1 << 50, "name": "step-3-attempt-1"},
        {"step": 3, "time": 1, "name": "../../other-job"},
        {"step": 3, "time": 1, "name": "step-3-attempt-1\n"},
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(found: Any) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        progress.parsed({"checkpoint": found}, 1, NOW)


# --- who may


def test_replica_0_of_the_present_attempt_may_report() -> None:
    assert progress.attempt_of(pod(), live(HEARING), job({"attempt": 1})) == 1


@pytest.mark.parametrize(
    ("who", "whose", "resource"),
    [
        (pod(index=1), live(HEARING), job({"attempt": 1})),
        (pod(), live(HEARING), job({"attempt": 2})),  # half dead, and the next attempt has begun
        (pod(2), live(HEARING), job({"attempt": 1})),
        (pod(), live(HEARING, 2), job({"attempt": 2})),  # its owner is another's name now
        (pod(status={"phase": "Failed"}), live(HEARING), job({"attempt": 1})),
        (pod(metadata={"labels": pod()["metadata"]["labels"]}), live(HEARING), job({"attempt": 1})),
        (pod(), {**live(HEARING), "metadata": {"name": "digits-worker-1", "uid": "batch-1"}}, job()),
        (pod(), live(HEARING), None),
        (pod(), None, job()),
    ],
)
def test_nobody_else_may(who: Manifest, whose: Manifest | None, resource: Manifest | None) -> None:
    assert progress.attempt_of(who, whose, resource) is None


# --- the status


def test_progress_is_in_the_status() -> None:
    found = status(report(remaining=90, metrics={"loss": 0.123456789, "accuracy": 1.0}))
    assert found["progress"] == {
        "step": 1200,
        "totalSteps": 5000,
        "percent": 24,
        "summary": "1200/5000 24%",
        "eta": "2026-01-01T00:11:30Z",
        "time": "2026-01-01T00:10:00Z",
        "metrics": {"accuracy": 1.0, "loss": 0.123457},
    }
    assert conditions.find(found, progress.REPORTED)["status"] == "True"


def test_a_program_need_not_say_how_many_steps_there_are() -> None:
    found = status(report(total=None))["progress"]
    assert (found["summary"], "percent" in found, "eta" in found) == ("1200", False, False)


def test_more_steps_than_there_are_is_all_of_it() -> None:
    assert status(report(step=7, total=5))["progress"]["percent"] == 100


def test_the_newest_checkpoint_is_in_the_status() -> None:
    heard = report(step=None, total=None, checkpoint=(3, NOW, "step-3-attempt-1"))
    asked = job({"attempt": 1}, checkpoint={"uri": "pvc://claim/digits/"})
    made = plan.plan(asked, Observed(), NOW, HEARING).apply[-1]
    seen = {**made, "metadata": made["metadata"] | {"uid": "batch-1"}}
    found = plan.plan(asked, Observed(children=(seen, pod()), report=heard), NOW, HEARING).status
    assert found["checkpoint"] == {
        "step": 3,
        "time": "2026-01-01T00:10:00Z",
        "uri": "pvc://claim/digits/step-3-attempt-1",
    }
    assert "progress" not in found
    assert "checkpoint" not in status(heard), "a job without a folder has none"


def test_the_longest_address_of_a_checkpoint_finds_room_in_the_status() -> None:
    folder = "pvc://c/" + "/".join("x" * 200 for _ in range(6))[:1016]
    name = f"step-{'1' * 15}-attempt-{'1' * 9}"
    asked = job({"attempt": 1}, checkpoint={"uri": folder})
    made = plan.plan(asked, Observed(), NOW, HEARING).apply[-1]
    seen = {**made, "metadata": made["metadata"] | {"uid": "batch-1"}}
    heard = report(checkpoint=(int("1" * 15), NOW, name))
    found = plan.plan(asked, Observed(children=(seen, pod()), report=heard), NOW, HEARING).status
    assert found["checkpoint"]["uri"] == f"{folder}/{name}"
    jsonschema.validate(found, schema(TrainingJob)["properties"]["status"])


def test_how_many_are_kept_is_told_when_it_is_not_the_runners_own() -> None:
    def variables(**checkpoint: Any) -> set[str]:
        made = plan.plan(job(checkpoint={"uri": "pvc://c/d", **checkpoint}), Observed(), NOW, QUIET).apply[-1]
        return {v["name"] for v in made["spec"]["template"]["spec"]["containers"][0]["env"]}

    assert variables(keep=7) - variables(keep=3) == {"CAPSTAN_CHECKPOINT_KEEP"}
    assert variables() == variables(keep=3)


def test_progress_outlives_passes_and_the_operator_that_heard_it() -> None:
    before = status(report())
    assert status(None, before) == before


def test_what_another_attempt_has_reported_is_not_told() -> None:
    before = status(report())
    assert status(report(step=9000, attempt=2), before)["progress"] == before["progress"]


def test_what_was_reported_before_the_last_report_is_not_told() -> None:
    before = status(report())
    assert status(report(step=3, time=NOW - timedelta(minutes=5)), before)["progress"] == before["progress"]


def test_what_has_ended_has_no_end_to_come() -> None:
    heard, before = report(remaining=90), status(report(remaining=90))
    done = live(HEARING) | {
        "status": {
            "conditions": [
                {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:09:00Z"}
            ]
        }
    }
    ended = pod(status={"phase": "Succeeded"})
    found = plan.plan(job(before), Observed(children=(done, ended), report=heard), NOW, HEARING).status
    assert (found["phase"], "eta" in before["progress"], "eta" in found["progress"]) == (
        "Succeeded",
        True,
        False,
    )


def test_a_job_that_has_not_been_heard_of_says_where_to_look() -> None:
    found = conditions.find(status(None), progress.REPORTED)
    assert (found["status"], found["reason"]) == ("Unknown", progress.NOTHING_HEARD)
    assert "log of replica 0" in found["message"]


# --- hangs


def test_a_limit_of_silence_reaches_the_runner_and_changing_it_restarts_nothing() -> None:
    def trainer(**policy: Any) -> dict[str, str | None]:
        made = plan.plan(job(failurePolicy={"hang": policy}), Observed(), NOW, QUIET).apply[-1]
        return {v["name"]: v.get("value") for v in made["spec"]["template"]["spec"]["containers"][0]["env"]}

    assert trainer(maxRestarts=3, timeout="30m")["CAPSTAN_HANG_TIMEOUT"] == "30m"
    assert "CAPSTAN_HANG_TIMEOUT" not in trainer(maxRestarts=3)
    before = status(None, settings=QUIET)
    changed = job(before, failurePolicy={"hang": {"maxRestarts": 3, "timeout": "1h"}})
    found = plan.plan(changed, Observed(children=(live(QUIET), pod())), NOW, QUIET)
    assert (found.delete, found.status["attempt"]) == ((), 1)
    assert get.mapping(found.apply[-1], "spec", "template") == live(QUIET)["spec"]["template"]


# --- the pods


def test_pods_get_a_pipe_and_a_token_for_the_operator_alone() -> None:
    template = live(HEARING)["spec"]["template"]["spec"]
    (trainer,) = template["containers"]
    variables = {variable["name"]: variable.get("value") for variable in trainer["env"]}
    assert variables["CAPSTAN_REPORT_URL"] == "https://capstan:8443/v1/progress"
    assert variables["CAPSTAN_REPORT_CA"] == "PEM"
    mounts = {mount["mountPath"]: mount for mount in trainer["volumeMounts"]}
    assert variables["CAPSTAN_PROGRESS_FILE"].rpartition("/")[0] in mounts
    assert mounts[variables["CAPSTAN_REPORT_TOKEN_FILE"].rpartition("/")[0]]["readOnly"] is True
    (projected,) = [volume for volume in template["volumes"] if "projected" in volume]
    (source,) = projected["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "capstan.dev"
    assert template["automountServiceAccountToken"] is False
    others = [
        mount["name"] for container in template["initContainers"] for mount in container["volumeMounts"]
    ]
    assert projected["name"] not in others


@pytest.mark.parametrize("spec", [{"supervise": False}, {"command": None}])
def test_without_the_runner_nothing_is_added(spec: Manifest) -> None:
    made = [plan.plan(job(**spec), Observed(), NOW, settings) for settings in (QUIET, HEARING)]
    assert made[0] == made[1]


def test_a_running_job_is_not_restarted_because_progress_is_wanted_now() -> None:
    """It keeps its pods, and nothing is said of progress that it was not made to report."""
    before = status(None, settings=QUIET)
    found = plan.plan(job(before), Observed(children=(live(QUIET), pod())), NOW, HEARING)
    assert (found.delete, found.status) == ((), before)
    assert get.mapping(found.apply[-1], "spec", "template") == live(QUIET)["spec"]["template"]
