"""Passes a run's secrets to its job only through the environment of `sbatch`, which SLURM passes to the job.

Everything written (command line, recipe, pickle, sbatch file, records) has HIDDEN instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dydist.config import Config
from dydist.config.reader import read_yaml, redacted_values
from dydist.errors import UserError
from dydist.jobs.submission.profile import Profile
from dydist.text.redaction import SECRETS, is_secret_name, scrub, secrets_of
from dydist.text.strict import dump_yaml


def job_variables(config: Config, profile: Profile) -> dict[str, str]:
    """Environment variables with the secrets of a configuration and of a profile's `env`, for the job.

    Raises UserError if the profile's options keep variables from the job.
    """
    found = secret_env(profile)
    if secrets := secrets_of(config):
        found[SECRETS] = json.dumps(secrets)
    if found and (keeper := _keeper(profile)):
        raise UserError(
            f"{keeper} keeps {', '.join(sorted(found))} from the job, which secrets go by; leave that option out, or "
            f"have it name ALL"
        )
    return found


def secret_env(profile: Profile) -> dict[str, str]:
    """The variables of a profile that are never written, since their name or value suggests a secret."""
    values = {name: str(value) for name, value in profile.env.items()}
    return {name: value for name, value in values.items() if is_secret_name(name) or scrub(value) != value}


def open_env(profile: Profile) -> dict[str, str]:
    """The other variables of a profile."""
    secret = secret_env(profile)
    return {name: str(value) for name, value in profile.env.items() if name not in secret}


@contextmanager
def in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within, set these variables in this process, so that child processes inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def recipe_to_write(recipe: Path) -> bytes:
    """The recipe's bytes for a submission's folder: unchanged, or without its secrets."""
    values = read_yaml(recipe)
    shown = redacted_values(values)
    content = recipe.read_bytes()
    if shown == values and scrub(content.decode()) == content.decode():
        return content
    return dump_yaml(shown).encode()


def _keeper(profile: Profile) -> str:
    """The option that would keep the variables of `sbatch` from the job, or ""."""
    options: list[tuple[str, Any]] = [("SBATCH_EXPORT", os.environ.get("SBATCH_EXPORT"))]
    options += [(f"sbatch: {name}", value) for name, value in profile.sbatch.items() if name == "export"]
    options += [("srun: --export", value) for value in _exports(profile.srun)]
    for name, value in options:
        if value is not None and "ALL" not in str(value).upper().split(","):
            return f"{name}={value}"
    return ""


def _exports(words: Sequence[str]) -> Iterator[str]:
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name == "--export":
            yield value if equals else following
