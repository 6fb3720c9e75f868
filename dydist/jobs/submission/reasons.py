"""Explains SLURM's reasons: whether a waiting job will start by itself, why a job has ended, and what to do."""

from __future__ import annotations

_REASONS = {
    "PartitionTimeLimit": "this job can never start: --time is above the partition's limit (sinfo -o '%P %l')",
    "PartitionNodeLimit": "this job can never start: --nodes is above the partition's limit (sinfo -o '%P %D')",
    "PartitionConfig": "this job can never start: the partition has no such node; see nodes, cpus_per_task, mem",
    "BadConstraints": "this job can never start: no node has what it asks for; see constraint, gres and mem",
    "InvalidAccount": "this job can never start: there is no such account; see account",
    "InvalidQOS": "this job can never start: there is no such QOS, or not for this account; see qos",
    "DependencyNeverSatisfied": "this job can never start: the job that it waits for has failed; cancel it",
    "JobHeldUser": "held by you; let it go: scontrol release JOB",
    "JobHeldAdmin": "held by an administrator; ask them",
    "BeginTime": "it waits for its begin time; a requeued job starts again after about two minutes",
    "Resources": "it waits for free nodes, and starts by itself",
    "Priority": "jobs of higher priority come first; it starts by itself",
    "Dependency": "it waits for another job, and starts by itself",
    "JobArrayTaskLimit": "the sweep already runs as many jobs as --parallel allows; it starts by itself",
    "Reservation": "it waits for its reservation to begin",
    "Licenses": "it waits for a licence, and starts by itself",
    "PartitionDown": "the partition is down; it waits for the administrators",
    "PartitionInactive": "the partition takes no new jobs; it waits for the administrators",
    "NodeDown": "a node that it asks for is down",
    "ReqNodeNotAvail": "a node that it asks for is down, drained or reserved; it waits for it",
    "RaisedSignal": "it was ended by a signal",
    "NonZeroExitCode": "its batch script ended with an error",
    "deadline": "SLURM ended it, since its deadline (--sbatch deadline) passed; submit it again with a later one",
    "timeout": "it reached its time limit before it could report; submit it again to resume",
    "node fail": "a node was lost, and SLURM did not requeue the job; submit it again to resume",
    "boot fail": "a node did not boot; submit the job again to resume",
    "out of memory": "a process took more memory than the job has; give it more (--mem), then submit it again",
    "preempted": "a job of higher priority took its nodes; submit it again to resume",
    "revoked": "another cluster of the federation runs it",
    "launch failed requeued held": "a node could not start it; see the node, then: scontrol release JOB",
}  # fmt: skip
_FAMILIES = {
    "QOS": "a limit of the QOS is reached; it starts when enough of its jobs have ended (sacctmgr show qos)",
    "Nodes required for job": "it waits for nodes that are down, drained or reserved, and starts by itself",
    "Assoc": "a limit of the account is reached; it starts when enough of its jobs have ended (sacctmgr show assoc)",
    "MaxMemPerLimit": "this job can never start: mem is above the partition's limit",
}


def explain(reason: str) -> str:
    """The meaning of SLURM's reason; "" if it is not known here."""
    for name in (reason, reason.partition(",")[0].strip("()")):
        if name in _REASONS:
            return _REASONS[name]
    return next((text for start, text in _FAMILIES.items() if reason.startswith(start)), "")
