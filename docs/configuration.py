"""Writes docs/configuration.md from the dataclasses and rules of dydist/config: python docs/configuration.py"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path

from dydist.config import Config
from dydist.config.reader import fields, read_config
from dydist.config.rules import ABOVE, BELOW_ONE, HIGHEST, LOWEST, check_config
from dydist.config.types import describe
from dydist.errors import UserError

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# Configuration

<!-- Written by docs/configuration.py from dydist/config/schema.py; do not edit. -->

A run is a pure function of these values ([concepts.md](concepts.md)). They come from a recipe, then from flags over it,
and every one of them is written to `config.yaml` in the run folder, which `--config` takes back.

<!-- run in tests/run/test_train.py::test_config_yaml_takes_the_run_up_again, with a smaller run -->
```bash
python dydist/train.py --config launch/recipes/quickstart.yaml --train.epochs 2 --run.name short
python dydist/train.py --config runs/short/config.yaml
```

- **A recipe** is YAML with a section a line or a block: `optim: {lr: 0.1, nesterov: true}`. `--config` takes a path, or
  the name of one that comes with dydist: `--config quickstart` ([recipes.md](recipes.md)).
- **A flag** is `--section.field value` or `--section.field=value`; values are written as in YAML: `true`, `null`,
  `[0.5, 0.75]`, `1e-3`. A list may also be written `0.5,0.75`. Of a flag that is given twice the last counts, as in
  any shell; `--config` is given once.
- **Paths** may begin with `~` or `~user`, wherever they are written; environment variables in a file stay as they are.
- **Nothing is guessed**: a section or field that a file has twice is an error, whole numbers are decimal digits
  (`010`, `0x10` and `1_000` are refused), and a name that looks like a number needs quotes in a file.
- **Mistakes** end the run with exit code 2 before any process group is up. All broken rules are told at once, each with
  its field, the value, what is allowed, and the nearest right name where a name is unknown.
- `python dydist/train.py --help` shows the same fields in the terminal.
"""

IMPOSSIBLE = [
    ("--train.batch_size 100 --parallel.shards 8", 1),
    ("--parallel.shards 4", 8),
    ("--optim.milestones 0.5,1.5", 1),
    ("--optim.milestones 0.75,0.5", 1),
    ("--train.epochs 5 --optim.warmup_epochs 5", 1),
    ("--optim.nesterov true --optim.momentum 0", 1),
    ("--data.name factory", 1),
    ("--data.name factory --data.factory images", 1),
    ("--data.options {size: 3}", 1),
    ("--train.loss focal", 1),
    ("--train.loss losses:focal --train.label_smoothing 0.1", 1),
    ("--data.mixup 0.2 --data.cutmix 1.0", 1),
    ("--data.augment false --data.cutout 8", 1),
    ("--data.limit 100 --data.validation 100", 1),
    ("--parallel.zero 2", 1),
    ("--parallel.engine deepspeed --parallel.zero 1 --parallel.offload param", 1),
    ("--parallel.engine deepspeed --train.compile true", 1),
    ("--parallel.engine deepspeed --parallel.zero 3 --train.ema_decay 0.99", 1),
    ("--parallel.engine deepspeed --parallel.reduce exact", 1),
    ("--train.precision fp16 --train.compile true --parallel.device cpu", 1),
    ("--train.compile_mode reduce-overhead", 1),
    ("--train.compile true --train.compile_mode reduce-overhead --parallel.reduce exact", 1),
    ("--model.kind static --model.attention sigmoid", 1),
    ("--model.dynamic layer5.*", 1),
    ("--model.options {depth:3}", 1),
    ("--model.convert true", 1),
    ("--model.factory my_network.py", 1),
    ("--train.profile 20:10", 1),
    ("--monitor.trackers [tensorbord]", 1),
    ("--monitor.trackers [wandb,wandb]", 1),
    ("--checkpoint.resume newest", 1),
    ("--run.dir s3://bucket/runs", 1),
    ("--checkpoint.url s3:/bucket/run", 1),
]
"""Flags that break one rule each, and the processes they are started on. tests/docs holds that none is missing."""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    meanings = dict(_meanings(Config))
    sections: dict[str, list[str]] = {}
    for path, kind, default in fields():
        row = f"| `{path}` | {_type(kind)} | {_value(default)} | {_cell(meanings[path])} | {allowed(path, kind)} |"
        sections.setdefault(path.partition(".")[0] if "." in path else "", []).append(row)
    for name, rows in sections.items():
        title = f"{name}: {_cell(meanings[name])}" if name else "seed"
        parts.append(f"## {title.rstrip('.')}\n\n| field | type | default | meaning | allowed |")
        parts[-1] += "\n| --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
    refusals = "\n".join(
        f"| `{flags}`{f' on {world_size} processes' * (world_size > 1)} | {_cell(refusal(flags, world_size))} |"
        for flags, world_size in IMPOSSIBLE
    )
    parts.append(
        "## Impossible together\n\nWhat is fine alone and refused together, and what is said:\n\n"
        f"| flags | message |\n| --- | --- |\n{refusals}"
    )
    return "\n".join(parts) + "\n"


def refusal(flags: str, world_size: int) -> str:
    """What a run with these flags is told."""
    try:
        check_config(read_config(flags.split()), world_size=world_size)
    except UserError as error:
        return str(error)
    raise AssertionError(f"{flags} on {world_size} processes is not refused any more")


def allowed(path: str, kind: typing.Any) -> str:
    """What a field takes beyond its type."""
    options = [one for one in _options(kind) if one is not None]
    if options:
        return ", ".join(f"`{one}`" for one in options)
    most = f", at most {HIGHEST[path]:,}" if path in HIGHEST else ""
    if path in LOWEST:
        return f"at least {LOWEST[path]:g}{most}"
    if path in ABOVE:
        return f"above {ABOVE[path]:g}{most}"
    if path in BELOW_ONE:
        return "at least 0, below 1"
    return ""


def _options(kind: typing.Any) -> Iterator[object]:
    if typing.get_origin(kind) is typing.Literal:
        yield from typing.get_args(kind)
    for one in typing.get_args(kind):
        if typing.get_origin(one) is typing.Literal:
            yield from typing.get_args(one)


def _meanings(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, the line under it) of every field; a section has its class's line."""
    hints = typing.get_type_hints(kind)
    lines = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(lines, ast.ClassDef)
    for field, after in zip(lines.body, [*lines.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name = field.target.id
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield prefix + name, str(after.value.value)
        else:
            section = hints[name]
            yield prefix + name, inspect.getdoc(section) or ""
            yield from _meanings(section, f"{prefix}{name}.")


def _type(kind: typing.Any) -> str:
    words = describe(kind)
    return "one of" if words.startswith("one of") else words.replace(" or null", ", or null")


def _value(default: object) -> str:
    if default is None:
        return "null"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
