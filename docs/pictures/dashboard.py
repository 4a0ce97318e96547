"""Draws the dashboard's queries as a Prometheus answers them: `python docs/pictures/dashboard.py URL [MINUTES]`.

Needs matplotlib and httpx, of no particular version. docs/pictures/dashboard.png was made with it from a Prometheus that scraped a
controller each second while sandboxes and executions came and went, and the daemon was lost for half a minute.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
DASHBOARD = HERE.parents[1] / "charts" / "sandbox-controller" / "files" / "dashboard.json"
COLUMNS = 4
UNITS = {"s": "s", "bytes": "bytes", "Bps": "bytes/s"}


def draw(url: str, minutes: float) -> None:
    """Write dashboard.png."""
    end = time.time()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [panel for panel in panels if panel["type"] != "row"]
    rows = -(-len(shown) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(5.2 * COLUMNS, 2.7 * rows), constrained_layout=True)
    row, places = "", iter(axes.flat)
    for panel in panels:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        axis = next(places)
        for target in panel["targets"]:
            for series in ask(url, target["expr"], end - minutes * 60, end):
                times = [(float(when) - end) / 60 for when, _ in series["values"]]
                label = target["legendFormat"]
                for name, value in series["metric"].items():
                    label = label.replace("{{" + name + "}}", value)
                axis.plot(times, [float(value) for _, value in series["values"]], label=label or None, linewidth=1.2)
        axis.set_title(f"{row}  {panel['title']}", fontsize=9, loc="left")
        unit = panel["fieldConfig"]["defaults"]["unit"]
        axis.set_ylabel(UNITS.get(unit, ""), fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=6, loc="upper left", ncols=2)
    for axis in places:
        axis.axis("off")
    figure.supxlabel("minutes", fontsize=9)
    figure.savefig(HERE / "dashboard.png", dpi=80)


def ask(url: str, expression: str, start: float, end: float) -> list[dict[str, Any]]:
    """The series of a range query."""
    wanted: dict[str, str | float] = {
        "query": expression.replace("$__rate_interval", "20s"),
        "start": start,
        "end": end,
        "step": 2,
    }
    found: list[dict[str, Any]] = httpx.get(f"{url}/api/v1/query_range", params=wanted, timeout=30).json()["data"][
        "result"
    ]
    return found


if __name__ == "__main__":
    draw(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5)
