"""config/grafana and config/prometheus ask only for what the workers say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

from config.settings import Settings
from streams.operations.series import SERIES

ROOT = Path(__file__).parents[2]
PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
}
#: Of PromQL: what is called, what joins, and what groups.
FUNCTIONS = {
    *("absent", "avg", "deriv", "histogram_quantile", "increase", "max", "min", "rate", "sum"),
}
WORDS = {"by", "and", "or", "unless", "on", "ignoring", "bool"}
#: Labels that Prometheus itself adds to what it scrapes.
TARGET_LABELS = {"instance", "job"}
TOKEN = re.compile(
    r"(?P<text>\"[^\"]*\")|(?P<duration>\[[^\]]+\])|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<mark>==|!=|=~|!~|>=|<=|[-+*/(){},=<>])|(?P<gap>\s+)"
)


def rules() -> list[dict[str, Any]]:
    text = (ROOT / "config/prometheus/alerts.yaml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    text = (ROOT / "config/grafana/reconciler.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def expressions() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


EXPRESSIONS = sorted(set(expressions()))


def tokens(expression: str) -> list[tuple[str, str]]:
    """The tokens of an expression, without gaps; fails on what is none."""
    found, position = [], 0
    while position < len(expression):
        token = TOKEN.match(expression, position)
        assert token is not None, f"not PromQL: {expression[position:]}"
        assert token.lastgroup is not None
        if token.lastgroup != "gap":
            found.append((token.lastgroup, token[0]))
        position = token.end()
    return found


def is_histogram(name: str) -> bool:
    return name in SERIES and SERIES[name].kind is HistogramMetricFamily


def is_series(name: str) -> bool:
    """Whether workers say something by this name; a histogram has three and not its own."""
    base = re.sub(r"_(bucket|count|sum)$", "", name)
    return (
        (base != name and is_histogram(base))
        or name in PROCESS
        or (name in SERIES and not is_histogram(name))
    )


def labels_of(name: str) -> set[str]:
    """The labels of a series by the name it has in an expression."""
    base = name if name in SERIES else re.sub(r"_(bucket|count|sum)$", "", name)
    labels = SERIES[base].labels if base in SERIES else ()
    return {*labels, *TARGET_LABELS, *(["le"] if name.endswith("_bucket") else [])}


def brackets(expression: str) -> list[str]:
    """What is wrong with the brackets of an expression."""
    left = "".join(text for kind, text in tokens(expression) if kind == "mark" and text in "(){}")
    while (fewer := left.replace("()", "").replace("{}", "")) != left:
        left = fewer
    return [f"brackets: {left}"] if left else []


def durations(expression: str) -> list[str]:
    """What is wrong with the durations of an expression."""
    good = re.compile(r"\[(\d+[smhd]|\$__rate_interval)\]")
    found = [text for kind, text in tokens(expression) if kind == "duration"]
    return [f"no duration: {text}" for text in found if not good.fullmatch(text)]


def names(expression: str) -> list[str]:
    """Names in an expression that are no function, no series, or no label of theirs."""
    found: list[str] = []
    series: list[str] = []
    grouped: set[str] = set()
    where = ""
    of = [*tokens(expression), ("end", "")]
    for (kind, text), (_, following) in pairwise(of):
        if text in "{})":
            where = "labels" if text == "{" else ""
        elif kind != "name":
            continue
        elif where == "labels":
            if text not in labels_of(series[-1]):
                found.append(f"{series[-1]} has no label {text}")
        elif where == "groups":
            grouped.add(text)
        elif text in WORDS:
            where = "groups" if following == "(" and text not in ("and", "or", "unless") else ""
        elif text in FUNCTIONS:
            found += [] if following in ("(", "by") else [f"{text} is not called"]
        elif is_series(text):
            series.append(text)
        else:
            found.append(f"no worker says {text}")
    known = {label for name in series for label in labels_of(name)}
    found += [f"no series has {label}" for label in grouped - known if series]
    return found if series else [*found, "no series"]


def problems(expression: str) -> list[str]:
    """What is wrong with an expression, as far as words and brackets tell."""
    return brackets(expression) + durations(expression) + names(expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_each_expression_asks_for_series_and_labels_that_there_are(expression: str) -> None:
    assert problems(expression) == []


@pytest.mark.parametrize(
    "expression",
    [
        "sum(capsules_readyy)",
        'capsules_backlog_entries{stream="a"}',
        "sum by (stream) (capsules_backlog_entries)",
        "rate(capsules_stage_waited_seconds_total[5m])",
        "rate(capsules_stage_waited_seconds[5m])",
        "sum(capsules_ready",
        "rate(capsules_lost_entries_total[5 minutes])",
        "1 > 0",
    ],
)
def test_the_check_of_expressions_finds_mistakes(expression: str) -> None:
    assert problems(expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_counters_are_looked_at_as_rates_and_gauges_are_not(expression: str) -> None:
    of = tokens(expression)
    over_time = {"rate", "increase"}
    for index, (_, name) in enumerate(of):
        is_gauge = name in SERIES and SERIES[name].kind is GaugeMetricFamily
        if name.endswith(("_total", "_bucket")):
            assert of[index - 2][1] in over_time, name
        elif is_gauge and index >= 2:
            assert of[index - 2][1] not in over_time, name


@pytest.mark.parametrize("name", [n for n, s in SERIES.items() if "Of the whole fleet" in s.about])
def test_what_is_the_same_at_each_worker_is_never_summed_over_them(name: str) -> None:
    for expression in EXPRESSIONS:
        before = re.findall(rf"(\w+)(?: by \([\w, ]+\))? ?\((?:deriv\()?{name}", expression)
        assert set(before) <= {"max", "deriv"}, expression


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_each_alert_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Capsules[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert re.fullmatch(r"\d+[sm]", rule.get("for", "0s"))
    about = rule["annotations"]
    assert set(about) == {"summary", "description", "runbook"}
    document, _, anchor = about["runbook"].partition("#")
    assert anchor == f"alert-{rule['alert'].lower()}"
    assert f'<a id="{anchor}"></a>' in (ROOT / document).read_text(encoding="utf-8")


def test_alerts_and_their_runbook_are_the_same_set() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    documented = re.findall(r'<a id="alert-(\w+)"></a>', readme)
    assert documented == [rule["alert"].lower() for rule in rules()]


def test_the_alert_on_the_producers_stream_names_the_stream_that_is_read() -> None:
    (rule,) = [rule for rule in rules() if rule["alert"] == "CapsulesSourceNearlyTrimmed"]
    assert f'topic="{Settings.model_fields["source_stream"].default}"' in rule["expr"]


def test_the_dashboard_is_sound() -> None:
    found = dashboard()
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used <= variables
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["title"]
    labels = {
        label
        for panel in panels
        for target in panel.get("targets", ())
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
    }
    assert labels <= TARGET_LABELS.union(*(series.labels for series in SERIES.values()))


def test_each_series_of_note_is_on_the_dashboard() -> None:
    asked = {text for e in EXPRESSIONS for _, text in tokens(e)}
    asked |= {name.removesuffix("_bucket") for name in asked}
    left_out = {
        *("capsules_build_info", "capsules_fleet_member", "capsules_fleet_workers"),
        *("capsules_partitions", "capsules_partitions_full", "capsules_sounding_age_seconds"),
    }
    assert {name for name in SERIES if name not in asked} == left_out
