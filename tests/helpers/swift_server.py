"""OpenStack Swift with its S3 interface, as Debian packages it: one replica, four processes and memcached.

apt-get install swift-proxy swift-account swift-container swift-object memcached
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

from helpers.support import free_port

PROGRAMS = (
    "swift-proxy-server",
    "swift-account-server",
    "swift-container-server",
    "swift-object-server",
    "memcached",
)
KEY, SECRET = "test:tester", "testing"
BACKENDS = ("account", "container", "object")
PLAIN_FILTERS = ("catch_errors", "bulk", "copy", "slo", "dlo")
PIPELINE = "catch_errors cache s3api tempauth bulk copy slo dlo proxy-server"


def missing_programs() -> list[str]:
    """What is not installed of it."""
    return [name for name in (*PROGRAMS, "swift-ring-builder") if _find(name) is None]


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")


@contextmanager
def swift_server(home: Path) -> Iterator[str]:
    """The endpoint of a running Swift that keeps its data below `home`."""
    ports = {name: free_port() for name in (*BACKENDS, "proxy", "memcached")}
    (home / "devices" / "disk").mkdir(parents=True)
    (home / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = tests\nswift_hash_path_prefix = tests\n"
    )
    for name in BACKENDS:
        builder = str(home / f"{name}.builder")
        for arguments in (
            ["create", "4", "1", "0"],
            ["add", f"r1z1-127.0.0.1:{ports[name]}/disk", "1"],
            ["rebalance"],
        ):
            command = [_find("swift-ring-builder") or "", builder, *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (home / f"{name}-server.conf").write_text(
            f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {ports[name]}\nswift_dir = {home}\n"
            f"devices = {home}/devices\nmount_check = false\nworkers = 1\nuser = {getuser()}\nlog_level = ERROR\n"
            f"[pipeline:main]\npipeline = {name}-server\n"
            f"[app:{name}-server]\nuse = egg:swift#{name}\n"
        )
    (home / "proxy-server.conf").write_text(
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {ports['proxy']}\nswift_dir = {home}\nworkers = 1\n"
        f"user = {getuser()}\nlog_level = ERROR\n"
        f"[pipeline:main]\npipeline = {PIPELINE}\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        f"[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:{ports['memcached']}\n"
        f"[filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = {SECRET} .admin\n"
        "[filter:s3api]\nuse = egg:swift#s3api\n"
        + "".join(
            f"[filter:{name}]\nuse = egg:swift#{name}\n"
            for name in ("catch_errors", "bulk", "copy", "slo", "dlo")
        )
    )
    commands = [
        [_find("memcached") or "", "-u", getuser(), "-l", "127.0.0.1", "-p", str(ports["memcached"])],
        *(
            [_find(f"swift-{name}-server") or "", str(home / f"{name}-server.conf")]
            for name in (*BACKENDS, "proxy")
        ),
    ]
    logs = (home / "log").open("wb")
    environment = {**os.environ, "PATH": "/usr/bin:/bin:/usr/sbin", "PYTHONPATH": ""}
    environment.pop("VIRTUAL_ENV", None)
    processes = [subprocess.Popen(one, stdout=logs, stderr=logs, env=environment) for one in commands]
    try:
        for port in ports.values():
            _await_port(port, processes, home / "log")
        yield f"http://127.0.0.1:{ports['proxy']}"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=60)
        logs.close()


def _await_port(port: int, processes: list[subprocess.Popen[bytes]], log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end or any(process.poll() is not None for process in processes):
                raise RuntimeError(f"Swift does not start:\n{log.read_text()[-3000:]}") from None
            time.sleep(0.1)
