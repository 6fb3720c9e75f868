"""The report of a preflight, from the files of its job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dydist.jobs.attempt import attempts
from dydist.jobs.files import read_json

VERDICTS = ("preflight.json", "probes.json")


def preflight_report(record: Mapping[str, Any]) -> dict[str, Any]:
    """`fit`: whether nothing bad was found; `bad` by node; `everywhere`; `notes`; `nodes`: each node's report, with
    the measurements of its processes."""
    report: dict[str, Any] = {
        "job": record["job"],
        "fit": False,
        "bad": {},
        "everywhere": [],
        "notes": [],
        "nodes": [],
    }
    history = attempts(Path(record["log_dir"]))
    if not history:
        return report
    folder = history[-1].folder
    verdicts = [found for name in VERDICTS if (found := read_json(folder / name))]
    for verdict in verdicts:
        report["bad"] |= verdict["bad"]
        report["everywhere"] += verdict["everywhere"]
        report["notes"] += verdict["notes"]
    probes = [found for path in sorted(folder.glob("exit-*/probe-*.json")) if (found := read_json(path))]
    for path in sorted(folder.glob("preflight-*.json")):
        if node := read_json(path):
            report["nodes"].append(
                {**node, "processes": [one for one in probes if one["node"] == node["name"]]}
            )
    report["fit"] = len(verdicts) == len(VERDICTS) and not report["bad"] and not report["everywhere"]
    return report


def render_report(report: Mapping[str, Any]) -> str:
    """As text: problems first, then one line per process."""
    lines = [f"BAD everywhere: {reason}" for reason in report["everywhere"]]
    lines += [f"BAD node {name}: {reason}" for name, reasons in report["bad"].items() for reason in reasons]
    lines += [f"note: {note}" for note in report["notes"]]
    for node in report["nodes"]:
        lines.append(
            f"node {node['name']}: clock {node['clock_skew_s']:+.3f} s, torch {node['versions']['torch']}"
        )
        for one in node["processes"]:
            speeds = [("all-reduce across", one["across_gb_s"]), ("within the node", one["within_gb_s"])]
            parts = [
                f"{one['gflops']:.0f} GFLOP/s",
                *(f"{what} {speed:.2f} GB/s" for what, speed in speeds if speed is not None),
            ]
            lines.append(f"  rank {one['rank']} on {one['device']}: {', '.join(parts)}")
    lines.append("fit" if report["fit"] else "not fit")
    return "\n".join(lines)
