"""What is printed of metrics."""

from types import SimpleNamespace

import numpy as np
import pytest

from gatedcir.benchmarks.cirr import CIRR, cirr_metrics
from gatedcir.benchmarks.fashioniq import FASHIONIQ, fashioniq_metrics
from gatedcir.evaluation.report import format_report, format_table

SPLITS = [
    SimpleNamespace(name="FashionIQ dress val", protocol="gallery of 3817 images, reference kept"),
    SimpleNamespace(name="FashionIQ shirt val", protocol="gallery of 6346 images, reference kept"),
]


def test_a_report_by_hand():
    report = format_report({"recall_at1": 5.126, "mean": 100.0}, SPLITS, title="epoch 3")
    assert report.split("\n") == [
        "epoch 3",
        "  FashionIQ dress val: gallery of 3817 images, reference kept",
        "  FashionIQ shirt val: gallery of 6346 images, reference kept",
        "  recall_at1    5.13",
        "  mean        100.00",
    ]


def test_every_metric_is_printed_in_order():
    metrics = {f"recall_at{k}": k / 7 for k in (1, 5, 10, 50, 100)}
    lines = format_report(metrics, [], title="").splitlines()[1:]
    assert [line.split() for line in lines] == [[n, f"{v:.2f}"] for n, v in metrics.items()]


def test_the_headlines_are_metrics():
    ranks = np.array([0, 3])
    assert CIRR.headline in cirr_metrics(ranks, ranks)
    assert FASHIONIQ.headline in fashioniq_metrics({"dress": ranks})


def test_a_table_by_hand():
    rows = {"none": {"a": 1.04, "b": 100.0, "c": 3.0}, "gated (ours)": {"b": 7.25, "a": 51.96}}
    columns = {"b": "R@1", "a": "mean of two"}
    assert format_table(rows, columns).split("\n") == [
        "|              |   R@1 | mean of two |",
        "|:-------------|------:|------------:|",
        "| none         | 100.0 |         1.0 |",
        "| gated (ours) |   7.2 |        52.0 |",
    ]


def test_a_table_refuses_an_absent_metric():
    with pytest.raises(KeyError, match="recall_at1"):
        format_table({"ours": {}}, {"recall_at1": "R@1"})
