"""The rendezvous of a job's processes: an address of the first node, and a port derived from the job."""

from __future__ import annotations

import socket
from collections.abc import Iterator

FIRST_PORT, PORTS = 20_000, 12_000
"""Below Linux's ephemeral ports (32,768 and up), so that no client uses one by chance."""


def address(interface: str | None, *, nodes: int) -> str:
    """This node's address on `interface`, or on that of the default route. Raises UserError if there is none."""
    import psutil

    from dydist.errors import UserError

    if interface is not None:
        cards = psutil.net_if_addrs()
        found = [one.address for one in cards.get(interface, ()) if one.family == socket.AF_INET]
        if not found:
            raise UserError(
                f"interface: {interface!r} has no IPv4 address on {socket.gethostname()}; it has "
                f"{', '.join(sorted(cards))}; name one of these in the profile, or none"
            )
        return found[0]
    if nodes == 1:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks the kernel for the route
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def candidate_ports(job: int, attempt: int) -> Iterator[int]:
    """Ports to try, a function of the job; jobs with adjacent numbers do not collide."""
    start = job * 37 + attempt * 7919
    return (FIRST_PORT + (start + index * 101) % PORTS for index in range(PORTS))


def free_port(candidates: Iterator[int]) -> int:
    """The first port on which no process of this node listens."""
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port of the range is taken")
