"""Why SLURM refuses a job, in one line: its own words, or which accounts, QOS or partitions there are."""

from __future__ import annotations

import getpass
import re

from dydist.jobs import slurm
from dydist.jobs.submission.profile import Profile

_FIELDS = {"account": "Invalid account", "qos": "Invalid qos", "partition": "invalid partition"}
"""What sbatch says of a value of each field that it does not take, in any case of letters."""


def explain(said: str, profile: Profile) -> str:
    """`said`: what sbatch printed, or submitit's report with it."""
    for field, sign in _FIELDS.items():
        if sign.lower() in said.lower():
            return _unknown(field, profile)
    lines = [line.strip() for line in said.splitlines() if re.search(r"sbatch: (error|fatal)", line)]
    return "; ".join(line.partition("sbatch: ")[2] for line in lines) or " ".join(said.split())[-300:]


def _unknown(field: str, profile: Profile) -> str:
    """That SLURM does not take the value of a field, and what it would take."""
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
