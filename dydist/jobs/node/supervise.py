"""Launches and watches the processes of one node until they exit or must be killed."""

from __future__ import annotations

import subprocess
import time

from dydist.errors import EXIT_DONE
from dydist.jobs import launch as launching
from dydist.jobs import slurm
from dydist.jobs.attempt import Kind, Outcome
from dydist.jobs.node import rendezvous
from dydist.jobs.node.context import NodeContext
from dydist.jobs.node.watch import Fault, Watch
from dydist.jobs.spec import JobSpec

POLL_S = 0.25
GRACE_S = 3.0
"""Seconds from the first failure until the other processes are killed, for their last output."""
MEETING_S = 120.0
"""Seconds for which a node waits for the first node's rendezvous address."""
CANCEL_S = 5.0
"""Seconds between checks for a cancel request whose signal did not arrive."""
LAUNCHES = 5
"""Maximum number of ports to try."""


def run(context: NodeContext, spec: JobSpec, turn: int) -> tuple[Outcome, int]:
    """Launch `spec`'s program, with another port if one is taken; returns the outcome and the number of the
    launch."""
    ports = rendezvous.candidate_ports(int(context.place.raw_job), context.number)
    for last in reversed(range(LAUNCHES)):
        if context.signals.warning or context.cancelled:
            return _outcome(context, Fault("stopped", None, "asked to stop before the launch")), turn
        if context.place.node == 0:
            where = rendezvous.address(spec.interface, nodes=context.place.nodes)
            context.attempt.write_rendezvous(turn, where, rendezvous.free_port(ports))
        outcome = _launch(context, spec, turn)
        if outcome.kind != "port_taken" or not last:
            break
        context.log.write("the port was taken in the meantime; trying the next one")
        turn += 1
    return outcome, turn


def _launch(context: NodeContext, spec: JobSpec, turn: int) -> Outcome:
    """Launch this node's processes once, and wait until they have exited."""
    place, log, processes = context.place, context.log, spec.processes_per_node
    began = time.monotonic()
    while (meeting := context.attempt.rendezvous(turn)) is None:
        if context.signals.warning or context.cancelled:
            return _outcome(context, Fault("stopped", None, "asked to stop before the launch"))
        if context.attempt.failures() or time.monotonic() - began > MEETING_S:
            return _outcome(context, Fault("torn", None, "the first node published no rendezvous address"))
        time.sleep(POLL_S)
    exit_dir = context.attempt.exit_dir(turn)
    exit_dir.mkdir(parents=True, exist_ok=True)
    where = launching.NodeRank(
        node=place.node, nodes=place.nodes, address=meeting["address"], port=meeting["port"]
    )
    log.write(f"launching {processes} of {place.nodes * processes} processes at {where.address}:{where.port}")
    watch = Watch(
        exit_dir,
        range(place.node * processes, (place.node + 1) * processes),
        now=time.monotonic,
        start_timeout_s=spec.start_timeout_s,
        hang_timeout_s=spec.hang_timeout_s,
    )
    until = slurm.end_time(place.job) if place.node == 0 and place.scheduler == "slurm" else None
    env = launching.environment(
        spec, job=place.job, attempt=context.number, node=place.name, exit_dir=exit_dir, until=until
    )
    launched = launching.Launch(spec, where, env, log)
    try:
        return _supervise(context, turn, watch, launched)
    finally:
        launched.kill()
        watch.look()
        watch.kill()


def _supervise(context: NodeContext, turn: int, watch: Watch, launched: launching.Launch) -> Outcome:
    """Watch until all processes have succeeded, or one has failed on this or another node."""
    ended_at: float | None = None
    told = False
    looked = time.monotonic()
    while True:
        watch.look()
        if context.signals.warning is None and time.monotonic() - looked > CANCEL_S:
            looked = time.monotonic()
            context.signals.warning = "dydist cancel" if context.cancelled else None
        launched.quiet = watch.ending
        if context.signals.warning:
            if not told:
                context.log.write(
                    f"{context.signals.warning}: asking the processes to finish their step, save and stop"
                )
                told = True
            watch.ask_to_stop()
        fault = watch.fault()
        if fault is None and watch.finished:
            launched.close(timeout_s=GRACE_S)
            kind: Kind = "done" if all(rank.code == EXIT_DONE for rank in watch.ranks) else "stopped"
            return _outcome(context, Fault(kind, None, "", max(rank.step for rank in watch.ranks)), watch)
        if fault is None and (status := launched.process.poll()) is not None:
            ended_at = ended_at or time.monotonic()
            if launched.port_taken and not watch.started:
                return _outcome(context, Fault("port_taken", None, "the port was taken"))
            if time.monotonic() - ended_at > GRACE_S:
                text = f"the launcher exited with code {status}, its processes without reporting"
                fault = Fault("launch", None, text)
        if fault is None and context.place.node and context.attempt.rendezvous(turn + 1):
            return _outcome(context, Fault("port_taken", None, "the first node's port was taken"))
        if fault is None:
            fault = _elsewhere(context)
        if fault is not None:
            return _take_down(context, watch, launched, fault)
        _pause(launched)


def _elsewhere(context: NodeContext) -> Fault | None:
    """The fault of another node's failure, or None."""
    others = [one for one in context.attempt.failures() if one.node != context.place.node]
    return Fault("torn", None, f"ended because of node {others[0].name}") if others else None


def _take_down(context: NodeContext, watch: Watch, launched: launching.Launch, fault: Fault) -> Outcome:
    """Report the failure to other nodes, give processes time for their last output, kill them, and name the likely
    cause."""
    if fault.kind == "torn":
        fault = watch.frozen() or fault
    if fault.kind != "torn":
        context.attempt.write_failure(_outcome(context, fault, watch))
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and not watch.finished:
        _pause(launched)
        watch.look()
    found = watch.fault() or fault
    if fault.kind in ("hung", "frozen") and found.kind in ("error", "hung"):
        found = fault  # a hung peer led to this error
    launched.kill()
    watch.kill()
    outcome = _outcome(context, found, watch)
    if found.kind != "torn":
        context.attempt.write_failure(outcome)
    return outcome


def _outcome(context: NodeContext, fault: Fault, watch: Watch | None = None) -> Outcome:
    last = () if fault.kind in ("done", "stopped") else context.log.last_lines(fault.rank)
    return Outcome(
        node=context.place.node,
        name=context.place.name,
        kind=fault.kind,
        time=time.time(),
        rank=fault.rank,
        step=fault.step,
        message=fault.message,
        last_lines=last,
        start_s=watch.start_s if watch else None,
        gone=not (watch and watch.stuck),
    )


def _pause(launched: launching.Launch) -> None:
    """Sleep for a moment, or until the launcher exits."""
    if launched.process.poll() is None:
        try:
            launched.process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            return
    else:
        time.sleep(POLL_S)
