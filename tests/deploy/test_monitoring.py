"""Dashboard and alerts speak of numbers that a server exports, by the labels that these have."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest

from ffrt import Bundle
from ffrt.serve.limits import Limits
from ffrt.serve.options import ServeOptions
from tests.deploy.checks import DEPLOY, documents, run
from tests.serve.fakes import FakeExecutor, Running
from tests.serve.watched.exported import exported

PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = json.loads((DEPLOY / "grafana/ffrt.json").read_text(encoding="utf-8"))
(ALERTS,) = documents(PROMETHEUS / "alerts.yml")
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
OF_PROMETHEUS = {"instance", "job"}
Exported = Mapping[str, frozenset[str]]


@pytest.fixture(scope="module")
def numbers(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """What a server exports, and what Prometheus itself adds."""
    options = ServeOptions(limits=Limits(disk_floor=0))
    server = Running(tmp_path_factory.mktemp("monitored") / "data", tiny, FakeExecutor(), options)
    yield {**exported(server), "up": frozenset()}
    server.close()


def panels() -> list[Any]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every expression of the dashboard, with Grafana's variables filled in."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [one.replace("$__rate_interval", "5m").replace("$instance", ".*") for one in found]


def parts(node: Any) -> Iterator[Any]:
    """A parsed expression and everything in it."""
    yield node
    below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
    for one in [*below, *getattr(node, "args", [])]:
        if one is not None:
            yield from parts(one)


def faults(expression: str, numbers: Exported) -> list[str]:
    """Names and labels in an expression that nothing exports."""
    found, known = [], set(OF_PROMETHEUS)
    tree = list(parts(promql.parse(expression)))
    for one in tree:
        if isinstance(one, promql.VectorSelector):
            name = str(one.name)
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            if name not in numbers and base not in numbers:
                found.append(name)
                continue
            labels = numbers[name if name in numbers else base] | OF_PROMETHEUS
            known |= labels | ({"le"} if name.endswith("_bucket") else set())
            found += [f"{name}: {m.name}" for m in one.matchers.matchers if m.name not in labels]
    for one in tree:
        if isinstance(one, promql.AggregateExpr) and one.modifier is not None:
            found += [f"by {label}" for label in one.modifier.labels if label not in known]
    return found


@pytest.mark.parametrize("expression", expressions())
def test_a_panel_asks_for_what_is_exported(expression: str, numbers: Exported) -> None:
    assert faults(expression, numbers) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_is_exported(rule: Any, numbers: Exported) -> None:
    assert faults(rule["expr"], numbers) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("ffrt_jobs_waiting", "ffrt_jobs_waiting"),
        ("ffrt_place_up{gpu='0'}", "ffrt_place_up: gpu"),
        ("sum by (stage) (ffrt_jobs_queued)", "by stage"),
        ("rate(ffrt_jobs_queued_total[5m])", "ffrt_jobs_queued_total"),
    ],
)
def test_what_is_not_exported_is_found(expression: str, fault: str, numbers: Exported) -> None:
    assert faults(expression, numbers) == [fault]


def test_legends_name_labels_that_their_numbers_have(numbers: Exported) -> None:
    for panel in panels():
        for target in panel["targets"]:
            labels: set[str] = set()
            for name in re.findall(r"ffrt_\w+", target["expr"]):
                labels |= numbers.get(re.sub(r"_(bucket|count|sum)$", "", name), frozenset()) | {"instance"}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, panel["title"]


def test_every_number_is_looked_at_somewhere(numbers: Exported) -> None:
    shown = " ".join([*expressions(), *[rule["expr"] for rule in RULES]])
    missing = [name for name in numbers if name not in shown]
    assert missing == []


def test_alerts_say_what_to_look_at_with_labels_that_they_have(numbers: Exported) -> None:
    for rule in RULES:
        text = rule["annotations"]["summary"]
        labels: set[str] = set(OF_PROMETHEUS)
        for one in parts(promql.parse(rule["expr"])):
            if isinstance(one, promql.VectorSelector):
                labels |= numbers[str(one.name)]
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_every_panel_asks_the_chosen_prometheus() -> None:
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "instance"]
    for panel in panels():
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_compose_joins_the_files_of_prometheus_and_grafana() -> None:
    (compose,), (prometheus,) = documents(DEPLOY / "compose.yaml"), documents(PROMETHEUS / "prometheus.yml")
    (source,) = documents(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")
    (provider,) = documents(DEPLOY / "grafana/provisioning/dashboards/ffrt.yaml")
    services = compose["services"]
    (scraped,) = prometheus["scrape_configs"]
    (target,) = scraped["static_configs"][0]["targets"]
    assert [target] == [f"{alias}:8000" for alias in services["cpu"]["networks"]["default"]["aliases"]]
    assert scraped["authorization"] == {"credentials_file": "ffrt.key"} and scraped["job_name"] == "ffrt"
    assert source["datasources"][0]["url"] == "http://prometheus:9090" and "prometheus" in services
    folder = provider["providers"][0]["options"]["path"]
    assert f"./grafana/ffrt.json:{folder}/ffrt.json:ro" in services["grafana"]["volumes"]


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., Path]:
    """A function that lays Prometheus's files out, its key beside them; `change` makes a fault in the rules."""

    def lay(change: Callable[[Any], None] = lambda rules: None) -> Path:
        shutil.copy(PROMETHEUS / "prometheus.yml", tmp_path)
        (tmp_path / "ffrt.key").write_text("ffrt_key")
        rules = copy.deepcopy(ALERTS)
        change(rules["groups"][0]["rules"])
        (tmp_path / "alerts.yml").write_text(json.dumps(rules))
        return tmp_path / "prometheus.yml"

    return lay


@needs_promtool
def test_prometheus_takes_its_configuration(installed: Callable[..., Path]) -> None:
    assert run("promtool", "check", "config", installed()).returncode == 0


@needs_promtool
def test_prometheus_refuses_a_faulty_rule(installed: Callable[..., Path]) -> None:
    def unbalanced(rules: Any) -> None:
        rules[0]["expr"] += ")"

    assert run("promtool", "check", "config", installed(unbalanced)).returncode != 0


@needs_promtool
def test_alerts_fire_when_they_should_and_else_not(installed: Callable[..., Path], tmp_path: Path) -> None:
    installed()
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    done = run("promtool", "test", "rules", tmp_path / "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
