"""The trackers that `monitor.trackers` may name: those built in, and those that installed packages offer.

Imports none of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

GROUP = "dydist.monitors"
"""Entry point group under which a package offers a tracker: a class or function without arguments that returns one."""
BUILT_IN = ("wandb", "mlflow")
"""Each is the name of its package and of the extra that installs it, too."""
_DATABASES = ("sqlite", "mysql", "postgresql", "mssql")


def tracker_problem(name: str, environ: Mapping[str, str]) -> str | None:
    """What is wrong with a name in `monitor.trackers`, with the remedy; None if it can be used."""
    problem: str | None = None
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if name not in BUILT_IN:
        if offered(name) is None:
            known = [*BUILT_IN, *sorted(entry_points(group=GROUP).names)]
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            problem = (
                f"{name!r} is no known tracker{meant}; use {' or '.join(known)}, or install one ({GROUP})"
            )
    elif not _installed(name):
        problem = f"{name} needs a package that is not installed; pip install 'dydist[{name}]'"
    elif name == "mlflow" and not uri:
        problem = (
            "mlflow needs the environment variable MLFLOW_TRACKING_URI; set it to a server such as "
            "http://host:5000, or to sqlite:////absolute/path/mlflow.db"
        )
    elif name == "mlflow" and _database(uri) and not _installed("sqlalchemy"):
        problem = (
            "mlflow needs SQLAlchemy for a database as MLFLOW_TRACKING_URI; pip install sqlalchemy alembic"
        )
    return problem


def offered(name: str) -> EntryPoint | None:
    """The entry point of a tracker that an installed package offers."""
    return next(iter(entry_points(group=GROUP, name=name)), None)


def _installed(package: str) -> bool:
    """Whether there is such a package; a folder of that name without modules is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def _database(uri: str) -> bool:
    return uri.partition("://")[0].partition("+")[0] in _DATABASES
