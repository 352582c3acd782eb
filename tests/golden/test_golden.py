"""Plans as a whole, from manifests to manifests: <case>/input.yaml -> <case>/want.yaml.

input.yaml holds the resource first, then the children and references that are observed. The time is always
the same.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Kind, Manifest, Observed, Plan, Settings

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
SETTINGS = Settings(agent_image="ghcr.io/capstan-dev/agent:1", serving_image="ghcr.io/capstan-dev/serving:1")
CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/input.yaml"))


class _Plain(yaml.SafeDumper):
    """No anchors: every manifest is written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def loaded(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def planned(resource: Manifest, others: list[Manifest]) -> Plan:
    kinds: dict[str, Kind] = {kind.kind: kind for kind in KINDS}
    seen = Observed(
        children=tuple(o for o in others if o["kind"] not in kinds),
        references=tuple(o for o in others if o["kind"] in kinds),
    )
    return kinds[resource["kind"]].plan(resource, seen, NOW, SETTINGS)


def test_there_are_cases() -> None:
    assert len(CASES) > 15


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_the_plan_is_as_written(case: Path, update_golden: bool) -> None:
    resource, *others = loaded(case / "input.yaml")
    got = asdict(planned(resource, others))
    text = yaml.dump(
        yaml.safe_load(yaml.safe_dump(_lists(got), sort_keys=False)),
        Dumper=_Plain,
        sort_keys=False,
        width=110,
    )
    want = case / "want.yaml"
    if update_golden:
        want.write_text(text)
    assert yaml.safe_load(text) == yaml.safe_load(want.read_text())


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
