"""An SFTP server that lets `me` in with the password on its standard input.

Usage: python password_server.py FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import asyncssh


async def serve(folder: Path, password: str) -> None:
    """Serve until killed. Writes `known_hosts` to the folder's parent and then says its port on standard output."""
    key = asyncssh.generate_private_key("ssh-ed25519")

    class Login(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, given: str) -> bool:
            return username == "me" and given == password

    def sftp(channel: Any) -> asyncssh.SFTPServer:
        return asyncssh.SFTPServer(channel, chroot=str(folder).encode())

    server = await asyncssh.create_server(
        Login, "127.0.0.1", 0, server_host_keys=[key], sftp_factory=sftp, allow_scp=False
    )
    port = server.sockets[0].getsockname()[1]
    public = key.export_public_key().decode()
    (folder.parent / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    print(port, flush=True)
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.stdin.readline().rstrip("\n")))
