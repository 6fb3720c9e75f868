"""Two ways in which sites configure SLURM, for slurm/testcluster: `default` suits dydist, `strict` is awkward.

`strict` has much that differs between real sites, all at once: jobs are not requeued unless they ask for it, a
preemption sends no user signal, two seconds from SIGTERM to SIGKILL, small arrays, little memory by default, GPUs as
typed gres (/dev/null and /dev/zero), partitions that requeue and that cancel, with and without a grace time, node
names with leading zeros, prologs that print, and no accounting. Where root starts it, jobs belong to another user,
whose home and project folders have spaces in their paths.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "nobody"
"""Whom jobs of the strict site belong to, where root starts it: a user that every machine has."""

DEFAULT = """\
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU={memory_per_cpu}
# Memory is added up every second, and a step that has more than the job asked for is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# What jobs that come back need (docs/job-faults.md): the warning signal at preemption, and requeueing.
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=5
MaxArraySize=10001
MaxJobCount=20000
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

STRICT = """\
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=400
JobAcctGatherType=jobacct_gather/none
JobRequeue=0
KillWait=2
MaxArraySize=10
GresTypes=gpu
Prolog={dir}/prolog.sh
Epilog={dir}/epilog.sh
TaskProlog={dir}/task_prolog.sh
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=requeue Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
PartitionName=cancel Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=CANCEL
PartitionName=cancel-grace Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=CANCEL GraceTime={grace}
PartitionName=short Nodes=ALL MaxTime=10 PriorityTier=2 PreemptMode=OFF
PartitionName=single Nodes=ALL MaxTime=INFINITE MaxNodes=1 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

SCRIPTS = {
    "prolog.sh": "#!/bin/sh\necho 'prolog: welcome'\n",
    "epilog.sh": "#!/bin/sh\necho 'epilog: goodbye'\n",
    # What a line of it begins with decides: `print` goes to the task's output, `export` into its environment.
    "task_prolog.sh": "#!/bin/sh\necho 'print task prolog: welcome to the cluster'\necho 'export SITE_PROLOG=1'\n",
}


@dataclass(frozen=True)
class Site:
    """`node`: format of a node's name, of its number from 1; `partition`: the default one, which may be preempted."""

    configuration: str
    node: str
    partition: str
    resources: str = ""
    scripts: bool = False
    min_job_age: int = 300


SITES = {
    "default": Site(DEFAULT, "n{}", "low"),
    "strict": Site(STRICT, "gpu-a{:02d}", "batch", " Gres=gpu:h100:2", scripts=True, min_job_age=120),
}


def write_files(site: Site, folder: Path) -> None:
    """The files that the site's configuration names."""
    if not site.scripts:
        return
    for name, text in SCRIPTS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "gres.conf").write_text("Name=gpu Type=h100 File=/dev/null,/dev/zero\n")


def identity(user: str | None) -> dict[str, Any]:
    """Arguments by which subprocess.run runs a command as this user; none for whoever runs this."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def make_home(site: Site, folder: Path) -> dict[str, str]:
    """The user of the strict site, and a home and a project folder of theirs; nothing on another site.

    Whoever starts the cluster is the user where that is not root, or where the user could not reach the folder.
    """
    if not site.scripts:
        return {}
    home = folder / "home of a user"
    project = home / "my project"
    project.mkdir(parents=True, exist_ok=True)
    found = {"home": str(home), "project": str(project)}
    if os.geteuid() == 0 and all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents)):
        for path in (home, project):
            shutil.chown(path, USER, pwd.getpwnam(USER).pw_gid)
        found["user"] = USER
    return found
