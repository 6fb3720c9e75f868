"""Servers for checkpoint tests that are Python packages, each in a process of its own:

    python store_servers.py ftp|webdav|asyncssh FOLDER

The first line on standard output is the port on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path


def ftp(folder: Path) -> None:
    """pyftpdlib; the user is `me`, the password `ftp-secret`."""
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import ThreadedFTPServer

    logging.disable()
    authorizer = DummyAuthorizer()
    authorizer.add_user("me", "ftp-secret", str(folder), perm="elradfmwMT")
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    server = ThreadedFTPServer(("127.0.0.1", 0), handler)
    announce(server.address[1])
    server.serve_forever()


def webdav(folder: Path) -> None:
    """wsgidav behind cheroot; nobody has to log in."""
    from cheroot.wsgi import Server
    from wsgidav.wsgidav_app import WsgiDAVApp

    app = WsgiDAVApp(
        {
            "provider_mapping": {"/": str(folder)},
            "simple_dc": {"user_mapping": {"*": True}},
            "logging": {"enable": False},
            "verbose": 0,
        }
    )
    server = Server(("127.0.0.1", 0), app, numthreads=16)
    server.prepare()
    announce(server.bind_addr[1])
    server.serve()


def asyncssh(folder: Path) -> None:
    """asyncssh's own SFTP server. `host` and `authorized_keys` beside the folder are its key and its users."""
    import asyncssh

    async def serve() -> None:
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[str(folder.parent / "host")],
            authorized_client_keys=str(folder.parent / "authorized_keys"),
            sftp_factory=True,
            allow_scp=False,
        )
        announce(server.get_port())
        await server.wait_closed()

    asyncio.run(serve())


def announce(port: int) -> None:
    """Say where the server listens."""
    print(port, flush=True)


if __name__ == "__main__":
    {"ftp": ftp, "webdav": webdav, "asyncssh": asyncssh}[sys.argv[1]](Path(sys.argv[2]))
