"""Checks that every node is fit for the job: on all nodes before each start, and by `dydist preflight`.

Each node writes its findings; the first node compares them and names bad nodes, which are then excluded. A problem on
every node (storage that cannot be written, a full disk) ends the job; if it is transient (a store that does not
answer), the job is requeued.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dydist.config.reader import read_config
from dydist.errors import UserError
from dydist.jobs.attempt import Attempt
from dydist.jobs.files import read_json, write_json
from dydist.jobs.node.checks import Finding, check_clock, check_disk, check_gpus, check_storage, versions
from dydist.jobs.node.context import NodeContext
from dydist.jobs.node.place_check import check_place
from dydist.jobs.spec import JobSpec

POLL_S = 0.1
PATIENCE_S = 60.0
"""Seconds for which the first node waits for the reports of the others."""
STRAGGLER = 0.7
"""A process below this fraction of the median speed is reported as a straggler."""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """The findings of one node about itself."""

    name: str
    findings: tuple[Finding, ...] = ()
    clock_skew_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`bad`: node → its problems. `everywhere`: problems of the job itself; `passing`: these are transient. `notes`:
    remarks."""

    bad: Mapping[str, Sequence[str]] = field(default_factory=dict)
    everywhere: Sequence[str] = ()
    passing: bool = False
    notes: Sequence[str] = ()

    @property
    def message(self) -> str:
        nodes = [f"node {name}: {'; '.join(reasons)}" for name, reasons in self.bad.items()]
        return " | ".join([*self.everywhere, *nodes])


def inspect_node(spec: JobSpec, name: str, scratch: Path) -> NodeReport:
    """Run all checks of this node that need neither other nodes nor a process group."""
    findings = [*check_disk(Path(spec.run_dir or scratch)), *check_storage(scratch)]
    findings += check_place(read_config(spec.arguments).checkpoint, Path(spec.workdir))
    skew, more = check_clock(scratch)
    findings += more
    if not spec.cpu:
        findings += check_gpus(spec.processes_per_node)
    return NodeReport(name=name, findings=tuple(findings), clock_skew_s=skew, versions=versions())


def compare(reports: Sequence[NodeReport], missing: Sequence[str] = ()) -> Verdict:
    """Determine the bad nodes: by their findings, by versions that differ from the majority's, by a missing
    report."""
    bad: dict[str, list[str]] = {name: ["no report within the time limit"] for name in missing}
    everywhere: list[str] = []
    notes: list[str] = []
    passing = not missing
    for report in reports:
        passing &= all(one.passing for one in report.findings if one.level == "bad")
        notes += [f"node {report.name}: {one.text}" for one in report.findings if one.level == "note"]
        if reasons := [one.text for one in report.findings if one.level == "bad"]:
            bad.setdefault(report.name, []).extend(reasons)
    for package in sorted({name for report in reports for name in report.versions}):
        found = [report.versions.get(package, "none") for report in reports]
        usual = Counter(found).most_common(1)[0][0]
        for report, version in zip(reports, found, strict=True):
            if version != usual:
                passing = False
                bad.setdefault(report.name, []).append(f"{package} is {version}, and {usual} elsewhere")
    total = len(reports) + len(missing)
    shared = [one.text for report in reports for one in report.findings if one.level == "bad" and one.shared]
    if len(bad) == total and (total > 1 or shared):
        everywhere = sorted({reason for reasons in bad.values() for reason in reasons})
        bad = {}
    return Verdict(bad=bad, everywhere=everywhere, passing=passing and bool(everywhere), notes=notes)


def compare_probes(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Verdict:
    """Judge the processes' measurements by node: wrong results make a node bad, slow ones make it a straggler."""
    bad: dict[str, list[str]] = {}
    notes: list[str] = []
    for name, ranks in results.items():
        for one in ranks:
            if not one["matmul_right"]:
                bad.setdefault(name, []).append(
                    f"rank {one['rank']}: a matrix product came out wrong on {one['device']}"
                )
            if not one["all_reduce_right"]:
                bad.setdefault(name, []).append(f"rank {one['rank']}: an all-reduce came out wrong")
    speeds = sorted(float(one["gflops"]) for ranks in results.values() for one in ranks)
    median = speeds[len(speeds) // 2] if speeds else 0.0
    for name, ranks in results.items():
        slow = [one for one in ranks if float(one["gflops"]) < STRAGGLER * median]
        notes += [
            f"straggler: rank {one['rank']} on node {name} computes {one['gflops']:.0f} GFLOP/s, "
            f"the median is {median:.0f}"
            for one in slow
        ]
    return Verdict(bad=bad, notes=notes)


def preflight(context: NodeContext) -> str:
    """Check this node, and agree with the others; returns the problems of some nodes, or transient ones of all, or
    "".

    Raises UserError for a permanent problem on every node.
    """
    spec, place, attempt = context.spec, context.place, context.attempt
    if spec.preflight == "off":
        return ""
    report = inspect_node(spec, place.name, attempt.folder / f"scratch-{place.node}")
    write_json(attempt.folder / f"preflight-{place.node}.json", asdict(report))
    if place.node == 0:
        publish(attempt, compare(*gather(context)))
    return agree(context)


def judge_probes(context: NodeContext, exit_dir: Path) -> str:
    """Judge the probes once they have ended on all nodes; returns the problems of some nodes, or ""."""
    place, processes = context.place, context.spec.processes_per_node
    if place.node == 0:
        results: dict[str, list[Mapping[str, Any]]] = {}
        deadline = time.monotonic() + PATIENCE_S
        for rank in range(place.nodes * processes):
            while (
                content := read_json(exit_dir / f"probe-{rank}.json")
            ) is None and time.monotonic() < deadline:
                time.sleep(POLL_S)
            if content is not None:
                results.setdefault(place.names[rank // processes], []).append(content)
        publish(context.attempt, compare_probes(results), "probes.json")
    return agree(context, "probes.json")


def gather(context: NodeContext) -> tuple[list[NodeReport], list[str]]:
    """The reports of all nodes, and the nodes that sent none in time."""
    deadline = time.monotonic() + PATIENCE_S
    place, found = context.place, dict[int, NodeReport]()
    while True:
        for node in set(range(place.nodes)) - set(found):
            if content := read_json(context.attempt.folder / f"preflight-{node}.json"):
                findings = tuple(Finding(**one) for one in content.pop("findings"))
                found[node] = NodeReport(**content, findings=findings)
        missing = [place.names[node] for node in range(place.nodes) if node not in found]
        if not missing or time.monotonic() > deadline:
            return [found[node] for node in sorted(found)], missing
        time.sleep(POLL_S)


def publish(attempt: Attempt, verdict: Verdict, name: str = "preflight.json") -> None:
    write_json(attempt.folder / name, asdict(verdict))


def agree(context: NodeContext, name: str = "preflight.json") -> str:
    """Wait for the first node's verdict; returns the problems of some nodes, or ""."""
    deadline = time.monotonic() + PATIENCE_S + 30
    while (content := read_json(context.attempt.folder / name)) is None:
        if time.monotonic() > deadline:
            return "the first node gave no verdict"
        time.sleep(POLL_S)
    verdict = Verdict(**content)
    for note in verdict.notes:
        context.log.write(f"preflight: {note}")
    if verdict.everywhere and not verdict.passing:
        raise UserError(f"preflight: {verdict.message}")
    return f"preflight: {verdict.message}" if verdict.message else ""
