"""Explains in one line why SLURM refuses a job, with the accounts, QOS or partitions that exist."""

from __future__ import annotations

import getpass
import re

from dydist.jobs import slurm
from dydist.jobs.submission.profile import Profile

_FIELDS = {"account": "Invalid account", "qos": "Invalid qos", "partition": "invalid partition"}
"""sbatch's message for an invalid value of each field; upper and lower case vary."""
_NODES = "see what nodes have: sinfo -o '%P %D %c %m %G %f'"
_ADVICE = {
    "Invalid feature specification": ("constraint", f"no node has it; {_NODES}"),
    "Memory specification can not be satisfied": ("mem", f"no node has as much; {_NODES}"),
    "Invalid generic resource (gres) specification": ("gres", f"the cluster has no such resource; {_NODES}"),
    "Requested node configuration is not available": (
        "",
        f"no node of the partition has as many GPUs (gpus_per_node, gres), cpus_per_task or mem; {_NODES}",
    ),
    "Requested time limit is invalid": (
        "time",
        "it is above the partition's limit; see: sinfo -o '%P %l'; a shorter time does no harm, as the job comes back",
    ),
    "Node count specification invalid": (
        "nodes",
        "the partition gives fewer to one job; see: sinfo -o '%P %D %s'",
    ),
    "Requested reservation is invalid": (
        "reservation",
        "there is no such reservation; see: scontrol show reservation",
    ),
    "Invalid license specification": (
        "licenses",
        "none such, or too few; see: scontrol show license",
    ),
    "Invalid node name specified": ("nodelist or exclude", "a node does not exist; see: sinfo -N"),
    "Job violates accounting/QOS policy": (
        "",
        "a limit of the account or QOS is below what is asked for; see: sacctmgr show association where user=$USER",
    ),
    "Required partition not available": ("partition", "it takes no jobs now; see: sinfo -s"),
    "Invalid time-min specification": ("time-min", "it is above time; give a shorter one"),
    "User's group not permitted to use this partition": ("partition", "it is not open to you; see: sinfo -s"),
}
"""For each refusal of sbatch: the field, if there is only one, and what to do. The most specific come first."""


def explain(said: str, profile: Profile) -> str:
    """The reason in one line. `said`: sbatch's output, or submitit's report of it.

    Messages that are not known here are returned without a change.
    """
    for field, sign in _FIELDS.items():
        if sign.lower() in said.lower():
            return _unknown(field, profile)
    for sign, (field, advice) in _ADVICE.items():
        if sign in said:
            given = getattr(profile, field, None) or profile.sbatch.get(field)
            value = f" {given!r}:" if given else ""
            return f"{field}:{value} {sign}: {advice}" if field else f"{sign}: {advice}"
    lines = [line.strip() for line in said.splitlines() if re.search(r"sbatch: (error|fatal)", line)]
    return "; ".join(line.partition("sbatch: ")[2] for line in lines) or " ".join(said.split())[-300:]


def _unknown(field: str, profile: Profile) -> str:
    """The message for an invalid value of a field, with the values that SLURM accepts."""
    value = getattr(profile, field)
    what = (
        f"{field}: {value!r} is not allowed" if value else f"{field}: none is given, and you have no default"
    )
    if field == "qos" and profile.account:
        what += f" with account {profile.account!r}"
    try:
        known = _known(field, profile)
    except slurm.SlurmError:
        return f"{what}; ask your administrator which there are"
    return (
        f"{what}; use one of: {', '.join(known)}"
        if known
        else f"{what}; you have none: ask your administrator"
    )


def _known(field: str, profile: Profile) -> list[str]:
    """The accounts and QOS of this user's associations, or the cluster's partitions. Raises SlurmError."""
    if field == "partition":
        return sorted(slurm.run("sinfo", "--noheader", "--format=%R", tries=1).split())
    where = ["where", f"user={getpass.getuser()}"]
    if field == "qos" and profile.account:
        where.append(f"account={profile.account}")
    show = ("sacctmgr", "--noheader", "--parsable2", "show", "association", *where, f"format={field}")
    return sorted({name for name in re.split(r"[,\n]", slurm.run(*show, tries=1)) if name})
