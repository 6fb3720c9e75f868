"""Every command on a run whose names, manifests, logs and files were made to look like markup or escape codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from dydist.cli.main import run_command
from dydist.train import main
from helpers.hostile_text import VISIBLE
from helpers.planted import TINY

NAME = "[red]x[!]\x1b[31m\u202e`|<b>$_{}"
TRAINED = "".join(character for character in NAME if character.isprintable())
"""What is left of NAME in a name that a run may have."""
TEXT = "[/x] \x1b[2J\u202e `|<script>alert(1)</script>\r\x9b5m"
"""What is no folder's name, because of its slash: in manifests, logs and status files."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in a hostile folder; what others may have written is in the first.

    A run of that name would be refused, so the folders get their names afterwards.
    """
    folder = tmp_path_factory.mktemp("runs") / TRAINED
    for name, lr in ((TRAINED, 0.1), (f"{TRAINED}2", 0.2)):
        words = [str(word) for field, value in TINY.items() for word in (f"--{field}", value)]
        words += [
            "--run.dir",
            str(folder),
            "--run.name",
            name,
            "--optim.lr",
            str(lr),
            "--monitor.quiet",
            "true",
        ]
        assert main([*words, "--monitor.prometheus_file", str(folder / f"{lr}.prom")]) == 0
    folder = folder.rename(folder.with_name(NAME))
    for name in (TRAINED, f"{TRAINED}2"):
        (folder / name).rename(folder / name.replace(TRAINED, NAME))
    run = folder / NAME
    for path in (run / "checkpoints").glob("step-*/MANIFEST.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"run": TEXT, "job": TEXT, "host": TEXT}))
    (run / "checkpoints" / f"step-{NAME}").mkdir()
    status = json.loads((run / "status.json").read_text())
    hostile = {"state": "failed", "message": TEXT, "job": "7", "step": TEXT, "loss": TEXT, "eta_s": TEXT}
    (run / "status.json").write_text(json.dumps(status | hostile))
    start = run / "logs" / "7" / "attempt-000"
    start.mkdir(parents=True)
    (start / "node-0.log").write_text(f"2026-01-01T00:00:00.000 [rank 0] {TEXT}\n")
    (start.parent / "starts.jsonl").write_text(json.dumps({"time": 0}) + "\n")
    failure = {
        "node": 0,
        "name": TEXT,
        "kind": "error",
        "time": 1.0,
        "rank": 0,
        "message": TEXT,
        "last_lines": [TEXT],
    }
    (start / "outcome-0.json").write_text(json.dumps(failure))
    (start / "decision.json").write_text(
        json.dumps({"action": "fail", "reason": TEXT, "time": 1.0, "saved_step": None})
    )
    tasks = {
        "task_logs": str(run / "logs" / "tasks"),
        "submission": str(run),
        "workdir": "/",
        "arguments": [TEXT],
    }
    record = {"job": "7", "cluster": "slurm", "name": TEXT, "run_dir": str(run), "log_dir": str(start.parent)}
    numbers = {"submitted": 1.0, "nodes": 1, "min_nodes": None, "processes_per_node": 1}
    (run / "job.json").write_text(json.dumps(tasks | record | numbers))
    with (run / "events.jsonl").open("a") as file:
        for kind, more in (("note", {"level": f'x"{TEXT}', "text": TEXT}), (TEXT, {"text": TEXT})):
            file.write(json.dumps({"kind": kind, "time": 1.0, **more}) + "\n")
    metrics = (run / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in metrics]
    for line in lines:
        for layer in line.get("attention", {}).values():
            layer["dead"] = TEXT
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["seed"] = config["data"]["root"] = TEXT
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


COMMANDS = {
    "status": ["status", "RUN"],
    "logs": ["logs", "RUN"],
    "checkpoint list": ["checkpoint", "list", "RUN/checkpoints"],
    "checkpoint verify": ["checkpoint", "verify", "RUN/checkpoints"],
    "checkpoint prune": ["checkpoint", "prune", "RUN/checkpoints", "--keep", "1", "--dry-run"],
    "checkpoint copy": ["checkpoint", "copy", "RUN/checkpoints", "OUT/copied"],
    "a place that is not there": ["checkpoint", "list", f"OUT/{NAME}"],
    "evaluate": ["evaluate", "RUN"],
    "export": ["export", "RUN", "--to", "safetensors", "--output", "OUT/NAME.safetensors"],
    "report": ["report", "RUN", "OTHER", "--output", "OUT/report.html"],
    "compare": ["compare", "OTHER", "OTHER", "--table", "--plot", "OUT/plot.png", "--csv", "OUT/table.csv"],
    "compare two": ["compare", "RUN", "OTHER"],
    "predict": ["predict", "RUN", "OUT/NAME.png"],
    "submit": ["submit", "--dry-run", "--cluster", "local", "--cpu", "--", "quickstart", "--run.name", NAME],
    "sweep": ["sweep", "--dry-run", "--cpu", "--name", NAME, "--grid", "model.stem=cifar,strided", "--", "quickstart"],
    "a mistake": ["submit", "--dry-run", "--cpu", "--", "quickstart", "--data.name", TEXT],
    "a run that is not there": ["report", f"OUT/{NAME}"],
    "files": ["files", TEXT],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_is_shown_text(
    command: str,
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    names = {"RUN": str(runs / NAME), "OTHER": str(runs / f"{NAME}2"), "OUT": str(tmp_path), "NAME": NAME}
    words = [re.sub("RUN|OTHER|OUT|NAME", lambda match: names[match[0]], word) for word in COMMANDS[command]]
    try:
        code = run_command(words)
    except SystemExit as error:  # tyro's own
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    assert code in (0, 1, 2), err
    assert "Traceback" not in err
    assert VISIBLE.search(out + err) is None, (out, err)
    for page in tmp_path.glob("report.html"):
        text = page.read_text()
        assert "<script>alert" not in text
        assert "<b>$" not in text
        assert VISIBLE.search(text) is None
    for page in tmp_path.glob("*.md"):
        import markdown

        text = page.read_text()
        assert VISIBLE.search(text) is None
        rendered = markdown.markdown(text, extensions=["tables", "fenced_code"])
        assert re.search(r"<b>|<script", rendered) is None
        assert rendered.count("<table>") == 2


def test_what_others_read_is_text(runs: Path) -> None:
    """Prometheus' file and TensorBoard's texts."""
    text = (runs / "0.1.prom").read_text()
    assert VISIBLE.search(text) is None
    assert re.search(r'dydist_step\{run="[^"\n]+"\} 6.0\n', text)
