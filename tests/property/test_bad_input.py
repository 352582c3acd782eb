"""What an older CRD lets through, and what others make of our children: plan() answers, and never raises."""

from __future__ import annotations

import copy
import json
from typing import Any

from capstan_operator.core.conflicts import with_conflict, with_rejection
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Manifest, ObjectRef, Observed, Plan
from capstan_operator.shell.gather import mentioned
from hypothesis import example, given
from hypothesis import strategies as st

from tests.property.test_plans import (
    BY_KIND,
    NOW,
    check_status,
    garbage,
    plan_of,
    resource,
    resources,
    situations,
)

REF = ObjectRef("v1", "Service", "ns", "x")
JOB = {"framework": "pytorch", "image": "img:1"}
names = st.text(min_size=1, max_size=300)
whole = garbage | st.text(max_size=300) | st.dictionaries(st.text(), st.text(), min_size=50, max_size=60)


def broken(draw: st.DrawFn, value: Any) -> Any:
    """The value with something else in one place of it."""
    inside = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not inside or draw(st.integers(0, 4)) == 0:
        return draw(whole)
    place = draw(st.sampled_from(inside))
    result = copy.copy(value)
    result[place] = broken(draw, value[place])
    return result


@st.composite
def broken_situations(draw: st.DrawFn) -> tuple[Manifest, Observed]:
    """A resource with its children, and up to three places of all that which are not what they should be.

    What the API server itself vouches for stays: apiVersion, kind, and a metadata with names and a uid.
    """
    wanted, seen = draw(situations())
    children = list(seen.children)
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["spec", "status", "child"]))
        if what != "child":
            wanted = {**wanted, what: broken(draw, wanted.get(what))}
        elif children:
            number = draw(st.integers(0, len(children) - 1))
            child, part = children[number], draw(st.sampled_from(["spec", "status", "metadata"]))
            vouched = {key: child["metadata"][key] for key in ("name", "uid") if key in child["metadata"]}
            bad = {**child, part: broken(draw, child.get(part))}
            metadata = bad["metadata"] if isinstance(bad["metadata"], dict) else {}
            children[number] = {**bad, "metadata": {**metadata, **vouched}}
    return wanted, Observed(tuple(children), seen.references)


def check_answer(wanted: Manifest, plan: Plan) -> None:
    """The plan is one that can be carried out, and can be told what stands in its way."""
    json.dumps([plan.status, plan.apply])
    for child in plan.apply:
        assert child["metadata"]["name"]
        assert child["metadata"]["ownerReferences"][0]["uid"] == wanted["metadata"]["uid"]
    with_conflict(plan, wanted, REF, NOW)
    with_rejection(plan, wanted, REF, "Invalid", "m", NOW)


@given(broken_situations())
def test_whatever_is_wrong_with_it_a_resource_gets_an_answer(situation: tuple[Manifest, Observed]) -> None:
    wanted, seen = situation
    mentioned(BY_KIND[wanted["kind"]].references(wanted))
    plan = plan_of(wanted, seen)
    check_answer(wanted, plan)
    assert plan_of(wanted, Observed(tuple(reversed(seen.children)), seen.references)) == plan


@given(st.sampled_from(sorted(BY_KIND)), names, whole, whole)
def test_any_json_is_answered(kind: str, name: str, spec: Any, status: Any) -> None:
    wanted = {**resource(kind, name, spec), "status": status}
    check_answer(wanted, plan_of(wanted, Observed()))


@given(resources, whole)
@example(resource("TrainingJob", "a", JOB), {"failure": "", "restarts": "x", "startTime": 5})
@example(resource("TrainingJob", "a", JOB), {"failure": {}, "restarts": [], "startTime": {}})
def test_a_status_of_another_shape_is_replaced_by_ours(wanted: Manifest, status: Any) -> None:
    wanted = {**wanted, "status": status}
    plan = plan_of(wanted, Observed())
    check_answer(wanted, plan)
    check_status(wanted, plan)


def test_there_is_nothing_that_is_not_tried() -> None:
    assert set(BY_KIND) == {kind.kind for kind in KINDS} == {"TrainingJob", "InferenceService"}
