"""A planted secret is in no file that a command writes, in nothing that it prints, and in no process list."""

from __future__ import annotations

import functools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from helpers.planted import NEEDLES, PASSWORD, SECRET, TINY, World, leaks, secrets, watched_processes
from helpers.support import REPOSITORY, Run, forked, free_port


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def storage(s3_options: dict[str, Any]) -> dict[str, Any]:
    """S3's options and a secret in each further place that options can have one."""
    return {**s3_options, "client_kwargs": {"region_name": "us-east-1"}}


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"x={SECRET}")
    (tmp_path / quote(PASSWORD, safe="")).write_bytes(b"")
    (tmp_path / "b").write_bytes(b"\0" + json.dumps({"p": PASSWORD}).encode())
    (tmp_path / "c").write_text("<hidden>")
    assert len(list(leaks(tmp_path))) == 3
    with (
        watched_processes() as seen,
        subprocess.Popen([sys.executable, "-c", "input()", SECRET], stdin=-1) as process,
    ):
        deadline = time.monotonic() + 30
        while not seen and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert seen


def test_forked_processes_have_the_temporary_folder_of_their_world(world: World) -> None:
    """What they leave there is searched."""
    say = functools.partial(exec, "import tempfile; print(tempfile.gettempdir(), flush=True)", {})
    _, text = forked(say, cwd=world.folder, log=world.folder / "log", env=world.env)
    assert text == f"{world.folder / 'tmp'}\n"
    run = Run(["--help"], 1, world.folder / "run", before=say, TMPDIR=world.env["TMPDIR"])
    run.wait()
    assert run.text().startswith(text)


def test_dry_runs_show_no_secret(world: World) -> None:
    recipe = world.recipe(
        checkpoint__url=f"sftp://me:{quote(PASSWORD, safe='')}@host/place",
        checkpoint__storage_options={"secret": SECRET, "endpoint_url": f"http://x:{SECRET}@h"},
        monitor__logdir=f"s3://bucket/logs?token={SECRET}",
    )
    (world.folder / "config" / "dydist").mkdir(parents=True)
    profile = world.folder.with_name("profile.yaml")
    profile.write_text(f"env: {{HF_TOKEN: {SECRET}, SOME_SETTING: 1}}\n")
    with watched_processes() as seen:
        for words in (
            ("submit", "--dry-run", "--cluster", "local", "--cpu", "--profile", profile, "--", recipe),
            ("submit", "--dry-run", "--cpu", "--json", "--profile", profile, "--", recipe),
            ("sweep", "--dry-run", "--cpu", "--name", "s", "--grid", "optim.lr=0.1,0.2", "--", recipe),
        ):
            world.dydist(*words)
    assert world.found() == []
    assert seen == []


def test_flags_of_a_submission_show_no_secret(world: World) -> None:
    submit = ["submit", "--dry-run", "--cluster", "local", "--cpu", "--", "quickstart"]
    options = ["--checkpoint.storage_options", json.dumps({"secret": SECRET})]
    text = world.dydist(*submit, *options, f"--checkpoint.url=s3://a:{quote(SECRET, safe='')}@b/c")
    assert "--checkpoint.storage_options" in text
    refused = world.dydist(*submit, *options, f"--checkpoint.url=s3://a:{SECRET}@b/c", code=2)
    assert "its password has a /, ? or # in it" in refused
    assert world.found() == []


def test_mistakes_show_no_secret(world: World) -> None:
    for words in (
        ["--checkpoint.storage_options", f'{{"secret": "{SECRET}"'],
        ["--checkpoint.storage_options", f"[{SECRET}"],
        ["--checkpoint.storage_options", SECRET],
        ["--checkpoint.url", f"carrierpigeon://me:{PASSWORD}@host/place"],
        ["--checkpoint.resume", f"carrierpigeon://me:{PASSWORD}@host/place"],
        ["--monitor.logdir", f"s3://me:{PASSWORD}@host/place", "--train.epochs", "0"],
    ):
        text = world.train(
            *(str(word) for name, value in TINY.items() for word in (f"--{name}", value)), *words, code=2
        )
        assert "Traceback" not in text
    broken = world.recipe()
    broken.write_text(f"checkpoint:\n  storage_options: {{secret: {SECRET}\n")
    world.train("--config", broken, code=2)
    assert world.found() == []


def few_commands_on_a_run(world: World, url: str, options: dict[str, Any], env: dict[str, str]) -> list[str]:
    """One command that reads each of: the run's files, a checkpoint by the run's file, a checkpoint by its address."""
    given = ["--storage-options", json.dumps(options)] if options else []
    world.forked("status", "runs/one", code=None)
    world.forked("report", "runs/one", "--no-png")
    world.forked("evaluate", "runs/one", "--json", **env)
    world.forked("checkpoint", "list", url, "--json", *given)
    return given


@pytest.mark.slow
def test_a_run_and_what_reads_it_leave_no_secret(world: World, s3_options: dict[str, Any]) -> None:
    url, options = f"s3://bucket/{world.folder.parent.name}", storage(s3_options)
    logs = f"s3://bucket/logs?token={SECRET}"
    recipe = world.recipe(checkpoint__url=url, checkpoint__storage_options=options, monitor__logdir=logs)
    given = {"checkpoint.url": url, "checkpoint.storage_options": {"key": "planted-key", "secret": SECRET}}
    with watched_processes() as seen:
        world.train("--config", recipe, "--run.name", "one")
        again = secrets({**given, "monitor.logdir": logs})  # the run's own file, secrets from the environment
        assert "done" in world.train("--config", "runs/one/config.yaml", **again)
    assert seen == []
    few_commands_on_a_run(world, url, options, secrets(given))
    assert world.found() == []


def commands_on_a_run(world: World, url: str, options: dict[str, Any], env: dict[str, str]) -> None:
    """Every command that reads a run, on `runs/one` and `runs/two`."""
    given = few_commands_on_a_run(world, url, options, env)
    world.dydist("compare", "runs/one", "runs/two", code=None, **env)
    assert "DYDIST_SECRETS" in world.dydist("evaluate", "runs/one", "--json", code=2)
    world.dydist("evaluate", url, *given)
    picture = world.folder / "work" / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    world.dydist("predict", "runs/one", picture, "--json", **env)
    assert "DYDIST_SECRETS" in world.dydist("predict", "runs/one", picture, code=2)
    world.dydist("predict", url, picture, *given)
    world.dydist("export", "runs/one", "--to", "safetensors", "--output", "out.safetensors", **env)
    world.dydist("checkpoint", "list", url, *given)
    world.dydist("checkpoint", "verify", url, *given)
    world.dydist("checkpoint", "prune", url, "--keep", "1", *given)
    world.dydist("checkpoint", "copy", url, "copied", *(["--source-options", given[1]] if given else []))


@pytest.mark.long
@pytest.mark.parametrize("store", ["s3", "sftp"])
def test_no_command_on_a_run_leaves_a_secret(
    store: str, world: World, s3_options: dict[str, Any], sftp_place: tuple[str, Path]
) -> None:
    host, known_hosts = sftp_place
    if store == "s3":
        url, options = f"s3://bucket/{world.folder.parent.name}", storage(s3_options)
    else:
        url = f"sftp://me:{quote(PASSWORD, safe='')}@{host}/{world.folder.parent.name}"
        options = {"known_hosts": str(known_hosts)}
    logs = f"s3://bucket/logs?token={SECRET}" if store == "s3" else f"{url}/logs"
    recipe = world.recipe(checkpoint__url=url, checkpoint__storage_options=options, monitor__logdir=logs)
    with watched_processes() as seen:
        world.train("--config", recipe, "--run.name", "one")
        world.train("--config", recipe, "--run.name", "one")  # done already
    assert seen == []
    other = world.recipe(
        checkpoint__url=f"{url}-two",
        checkpoint__storage_options=options,
        checkpoint__resume=f"{url}/step-000000006",
    )
    world.train("--config", other, "--run.name", "two")
    given = {"checkpoint.url": url, "checkpoint.storage_options": {"key": "planted-key", "secret": SECRET}}
    again = secrets({**given, "monitor.logdir": logs})
    with watched_processes() as seen:  # the run's own file, with its secrets from the environment
        assert "done" in world.train("--config", "runs/one/config.yaml", **again)
    assert seen == []
    assert "<hidden> stands for a secret" in world.train("--config", "runs/one/config.yaml", code=2)
    env = secrets({"checkpoint.url": url, "checkpoint.storage_options": given["checkpoint.storage_options"]})
    commands_on_a_run(world, url, options, env)
    tensorboard(world, "runs/one", logs)
    assert world.found() == []


def tensorboard(world: World, *where: str) -> None:
    """Let TensorBoard run until its page is there, or it has said why not."""
    words = [sys.executable, "-m", "dydist.cli.main", "tensorboard", *where, "--port", str(free_port())]
    out = world.folder / "outputs" / "tensorboard.txt"
    with (
        watched_processes(["dydist.cli.main\0tensorboard"]) as seen,
        out.open("w") as file,
        subprocess.Popen(
            words, stdout=file, stderr=file, cwd=world.folder / "work", env=world.env, start_new_session=True
        ) as process,
    ):
        deadline = time.monotonic() + 180
        while (
            process.poll() is None and "Press CTRL+C" not in out.read_text() and time.monotonic() < deadline
        ):
            time.sleep(0.2)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    assert seen == []


@pytest.mark.long
def test_what_a_store_says_shows_no_secret(
    world: World, s3_options: dict[str, Any], sftp_place: tuple[str, Path]
) -> None:
    """Refused and failing credentials: what libraries raise is told without them."""
    host, known_hosts = sftp_place
    given = {"known_hosts": str(known_hosts)}
    for url, options in (
        (f"sftp://not-me:{quote(PASSWORD, safe='')}@{host}/x", given),
        (f"sftp://me:{PASSWORD}@{host}/x", given),
        (f"sftp://me:{quote(PASSWORD, safe='')}@127.0.0.1:1/x", given),
        ("s3://bucket/x", {**s3_options, "endpoint_url": f"http://me:{SECRET}@127.0.0.1:1"}),
        ("s3://bucket/x", {**s3_options, "no_such_option": SECRET}),
        ("s3://no-such-bucket/x", s3_options),
    ):
        recipe = world.recipe(
            checkpoint__url=url, checkpoint__storage_options=options, checkpoint__deadline_s=3
        )
        world.train("--config", recipe, "--run.name", "refused", code=None)
        world.dydist(
            "checkpoint", "list", url, "--storage-options", json.dumps(options), code=None
        ) if "127.0.0.1:1" not in json.dumps([url, options]) else None
    assert world.found() == []


@pytest.mark.long
def test_a_local_job_leaves_no_secret(world: World, s3_options: dict[str, Any]) -> None:
    recipe = world.recipe(
        checkpoint__url="s3://bucket/local-job", checkpoint__storage_options=storage(s3_options)
    )
    endless = ("--train.max_steps", "1000000", "--train.epochs", "1000000")
    status = world.folder / "work" / "runs" / "job" / "status.json"
    with watched_processes() as seen:
        world.dydist("submit", "--cluster", "local", "--cpu", "--", recipe, "--run.name", "job", *endless)
        deadline = time.monotonic() + 120
        while (
            not (status.exists() and json.loads(status.read_bytes())["step"]) and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        assert "asked to save and stop" in world.dydist("cancel", "runs/job")
        answer = world.dydist("logs", "--follow", "runs/job", code=None)
        assert "has ended already" in world.dydist("cancel", "runs/job")
        world.dydist("preflight", "--cpu", "--", recipe)
    assert "cancelled by dydist cancel" in answer
    assert seen == []
    for words in (("status",), ("status", "--json"), ("logs", "runs/job"), ("logs", "--json", "runs/job")):
        world.dydist(*words)
    assert stat.S_IMODE((world.folder / "work" / "runs" / "job" / "logs" / "tasks").stat().st_mode) == 0o700
    assert world.found() == []
    assert NEEDLES
    assert (world.folder / "state" / "dydist" / "jobs.jsonl").is_file()
    assert REPOSITORY.is_dir()
