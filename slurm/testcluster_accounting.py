"""MariaDB and slurmdbd beside slurm/testcluster, so that sacct answers (`testcluster up --accounting`)."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = ("mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr", "sacct")
PACKAGES = "slurmdbd mariadb-server"

SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={munge}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
LogFile={dir}/slurmdbd.log
PidFile={dir}/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""

SLURM = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageEnforce=associations,qos
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={munge}/munge.socket
"""
"""Lines of slurm.conf: jobs need an account and a QOS that their user has.

The password is munge's socket, which is not where sacct would look.
"""


def prepare(
    folder: Path, *, munge: Path, user: str, db_port: int, dbd_port: int, env: Mapping[str, str]
) -> str:
    """Make the database's folder and both daemons' files; the lines that slurm.conf needs.

    Raises CalledProcessError where mariadb-install-db fails.
    """
    password = secrets.token_hex(16)
    who = "slurm@'127.0.0.1'"
    grants = f"CREATE USER {who} IDENTIFIED BY '{password}';\nGRANT ALL ON *.* TO {who};\n"
    written = {
        "grants.sql": grants,
        "slurmdbd.conf": SLURMDBD.format(
            munge=munge,
            host=socket.gethostname(),
            user=user,
            dir=folder,
            db_port=db_port,
            dbd_port=dbd_port,
            password=password,
        ),
    }
    for name, text in written.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder / 'mariadb'}", f"--user={user}",
               "--auth-root-authentication-method=normal", "--skip-test-db"]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True, env=dict(env))
    return SLURM.format(dbd_port=dbd_port, munge=munge)


def daemons(folder: Path, *, munge: Path, user: str, db_port: int) -> dict[str, list[str]]:
    """The command line of each daemon, in the order in which they start.

    The database's socket, whose path may not be long, lies in munge's folder.
    """
    database = ["mariadbd", "--no-defaults", f"--datadir={folder / 'mariadb'}", f"--user={user}",
                "--bind-address=127.0.0.1", f"--port={db_port}", f"--socket={munge / 'mariadb.socket'}",
                f"--pid-file={folder / 'mariadbd.pid'}", f"--init-file={folder / 'grants.sql'}", "--skip-name-resolve",
                "--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900",
                "--innodb-flush-log-at-trx-commit=0"]  # fmt: skip
    return {"mariadbd": database, "slurmdbd": ["slurmdbd", "-D"]}


def answers(port: int) -> bool:
    """Whether the database takes connections: slurmdbd that comes too early waits five seconds."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
