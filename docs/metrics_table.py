"""Writes docs/metrics.md from the metrics themselves: `python docs/metrics_table.py`."""

from datetime import UTC, datetime
from pathlib import Path

from controller.metrics import Described, Metrics
from controller.operations import show_objects

PAGE = Path(__file__).with_name("metrics.md")
HEAD = """<!-- Written by docs/metrics_table.py from controller/metrics.py; change that. -->
# Metrics

Port 8080, `/metrics`, in Prometheus' text format. No secrets, no names of objects, no code. Counters end in `_total`;
times are in seconds, sizes in bytes. Alerts about them are in [`alerts.yaml`](../charts/sandbox-controller/files/alerts.yaml),
each with a [runbook](runbooks/), and the chart brings a Grafana dashboard.

Executions wait in no queue: what exceeds `SANDBOX__MAX_EXECUTIONS` in a sandbox gets 429 at once. How full sandboxes are shows in
`sandbox_executions_running`, who came too much in `sandbox_executions_refused_total` with the reason `Busy`.

![The dashboard's queries, asked of a real Prometheus](pictures/dashboard.png)

| metric | type | labels | |
|---|---|---|---|
"""
PROCESS = (
    Described("process_cpu_seconds_total", "counter", (), "Processor time that the controller used."),
    Described("process_resident_memory_bytes", "gauge", (), "Memory of the controller."),
)
"""Of the client library, which names them only on Linux; it brings a few more that begin with process_."""


def page() -> str:
    """The whole page."""
    metrics = Metrics()
    show_objects(metrics, list, lambda: datetime.now(UTC))
    rows = [
        f"| `{each.name}` | {each.type} | {', '.join(f'`{label}`' for label in each.labels)} | {each.text} |"
        for each in [*metrics.described, *PROCESS]
    ]
    return HEAD + "\n".join(sorted(rows)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
