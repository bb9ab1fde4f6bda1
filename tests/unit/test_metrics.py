"""What /metrics can say is documented, named as Prometheus wants it, and adds up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Sample

from streams.figures.meter import BOUNDS, Distribution
from streams.operations.metrics import _add_histogram, _family
from streams.operations.series import SERIES

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
KINDS = {
    CounterMetricFamily: "counter",
    GaugeMetricFamily: "gauge",
    HistogramMetricFamily: "histogram",
}


def table() -> str:
    """The table of series, as it must stand in the document."""
    lines = ["| series | type | labels | what it says |", "|---|---|---|---|"]
    for name, series in SERIES.items():
        labels = ", ".join(f"`{label}`" for label in series.labels) or "none"
        lines.append(f"| `{name}` | {KINDS[series.kind]} | {labels} | {series.about} |")
    return "\n".join(lines)


def test_the_document_has_each_series_as_it_is() -> None:
    found = re.search(r"<!-- series:.*?-->\n(.*?)\n<!-- /series -->", DOCUMENT, re.DOTALL)
    assert found is not None
    assert found[1] == table(), f"it should be:\n{table()}"


@pytest.mark.parametrize("name", SERIES)
def test_names_are_as_prometheus_wants_them(name: str) -> None:
    assert re.fullmatch(r"capsules_[a-z_]+[a-z]", name)
    assert name.endswith("_total") == (SERIES[name].kind is CounterMetricFamily)
    # Base units only.
    assert not re.search(r"_(ms|millis\w*|minutes|kb|mb)(_|$)", name)
    assert not {"capsule", "capsule_id", "entry", "id", "consumer"} & set(SERIES[name].labels)


def samples(values: list[float], **kwargs: float) -> list[Sample]:
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    family: Metric = _family("capsules_stage_waited_seconds")
    _add_histogram(family, "route", distribution, scale=1000, **kwargs)  # type: ignore[arg-type]
    return list(family.samples)


def test_a_histogram_has_each_value_in_all_buckets_that_it_is_not_above() -> None:
    values = [0.2, 1, 1.2, 2, 2.1, 3, 500, 3_000_000, 99_000_000]
    found = samples(values)
    buckets = {s.labels["le"]: s.value for s in found if s.name.endswith("_bucket")}
    for le, count in buckets.items():
        assert count == sum(value / 1000 <= float(le) for value in values), le
    assert [s.value for s in found if s.name.endswith("_count")] == [len(values)]
    assert [s.value for s in found if s.name.endswith("_sum")] == [sum(values) / 1000]
    bounds = [float(le) for le in buckets]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0.001
    assert 2_000 < bounds[-2] <= BOUNDS[-1] / 1000


def test_a_histogram_with_fewer_buckets_loses_no_value() -> None:
    found = samples([1, 9_000, 99_000_000], bounds=14)
    buckets = {s.labels["le"]: s.value for s in found if s.name.endswith("_bucket")}
    assert len(buckets) == 15
    assert buckets["+Inf"] == 3
