"""The dashboards: what a person needs to read them is there, and Grafana can lay them out."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "manifests/dashboards").glob("*.json"))
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SET_BY_GRAFANA = {"__rate_interval", "__range", "datasource"}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def dashboard(request):
    return json.loads(request.param.read_text())


def shown(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_there_are_three_and_none_is_taken_for_another():
    dashboards = [json.loads(path.read_text()) for path in FILES]
    assert [path.stem for path in FILES] == [
        "capstan-fleet",
        "capstan-inference-service",
        "capstan-training-job",
    ]
    assert len({found["uid"] for found in dashboards}) == len({found["title"] for found in dashboards}) == 3


def test_every_panel_has_an_identity_a_unit_and_a_description(dashboard):
    assert not [
        number for number, times in Counter(p["id"] for p in dashboard["panels"]).items() if times > 1
    ]
    for panel in shown(dashboard):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"]
    titles = Counter(panel["title"] for panel in shown(dashboard) if panel["type"] == "timeseries")
    assert max(titles.values()) == 1


def test_panels_fill_the_grid_without_lying_on_each_other(dashboard):
    taken = Counter(
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    )
    assert max(taken.values()) == 1
    assert max(x for x, _ in taken) == 23
    assert len(taken) == 24 * (1 + max(y for _, y in taken)), "there are holes"


def test_everything_asks_the_chosen_prometheus(dashboard):
    first, *others = dashboard["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert all(found["datasource"] == SOURCE for found in (*others, *shown(dashboard)))


def test_no_expression_has_a_variable_that_is_not_there(dashboard):
    known = {variable["name"] for variable in dashboard["templating"]["list"]} | SET_BY_GRAFANA
    for panel in shown(dashboard):
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= known
