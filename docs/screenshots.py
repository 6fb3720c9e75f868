"""Take the pictures of docs/monitoring.md: the report and TensorBoard, in a real browser.

    python docs/screenshots.py runs/seed-0 runs/seed-1 runs/seed-2

Needs Chromium (Debian: apt-get install chromium) and dydist with its extra `report`. Writes to docs/images/.
Fails where a page logs an error to its console.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--enable-logging=stderr", "--log-level=0",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """What a page did: lines of its console, and every address that it asked for."""

    console: list[str]
    requests: list[str]

    @property
    def errors(self) -> list[str]:
        """Console lines that are errors, whoever wrote them."""
        return [
            line for line in self.console if re.search(r"error|uncaught|failed|refused", line, re.IGNORECASE)
        ]

    @property
    def outside(self) -> list[str]:
        """Requests that left this machine, or tried to."""
        here = ("file:", "data:", "blob:", "http://localhost", "http://127.0.0.1", "chrome:", "about:")
        return [url for url in self.requests if not url.startswith(here)]


def find_chromium() -> str | None:
    """A Chromium on this machine."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def visit(
    url: str, picture: Path, *, width: int = 1280, height: int = 900, dark: bool = False, wait_ms: int = 4000
) -> Visit:
    """Open `url` in a new Chromium, wait, and take a picture of the window."""
    browser = find_chromium()
    if browser is None:
        raise SystemExit("screenshots: Chromium is not installed; Debian: apt-get install chromium")
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        log = Path(profile) / "net.json"
        command = [
            browser, *FLAGS, f"--user-data-dir={profile}/user", f"--window-size={width},{height}",
            f"--virtual-time-budget={wait_ms}", f"--log-net-log={log}", "--net-log-capture-mode=Default",
            *(["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]),
            f"--screenshot={picture.resolve()}", url,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        console = re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr)
        return Visit(console, _page_requests(log))


def _page_requests(log: Path) -> list[str]:
    """Addresses that pages asked for. The browser's own calls home have no page behind them."""
    text = log.read_text()
    try:
        events = json.loads(text)["events"]
    except json.JSONDecodeError:  # the browser ended before it closed the list
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    found = [event["params"] for event in events if "params" in event]
    pages = [p for p in found if "url" in p and p.get("initiator", "not an origin") != "not an origin"]
    return [p["url"] for p in pages]


@contextmanager
def tensorboard(runs: dict[str, Path]) -> Iterator[str]:
    """TensorBoard on a free port, showing run folders by name, once it has read them; its address."""
    with tempfile.TemporaryDirectory() as folder:
        for name, run in runs.items():
            (Path(folder) / name).symlink_to((run / "tensorboard").resolve())
        spec = ",".join(f"{name}:{name}" for name in runs)  # relative: the page shows it
        with _serving(f"--logdir_spec={spec}", cwd=folder) as address:
            for name, run in runs.items():
                last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
                wait_until_read(address, name, last)
            yield address


def wait_until_read(address: str, run: str, step: int, *, timeout_s: float = 60.0) -> None:
    """Return when TensorBoard knows `step` of a run's test accuracy."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for name in (f"{run}/.", run):
            query = urllib.parse.urlencode({"run": name, "tag": "accuracy/test"})
            try:
                with urllib.request.urlopen(
                    f"{address}/data/plugin/scalars/scalars?{query}", timeout=10
                ) as answer:
                    if any(point[1] >= step for point in json.load(answer)):
                        return
            except urllib.error.HTTPError:
                continue  # it does not know the run yet
        time.sleep(0.2)  # it has no way to say when it has read something
    raise SystemExit(
        f"screenshots: TensorBoard did not read {run} up to step {step} within {timeout_s:.0f} s"
    )


@contextmanager
def _serving(*arguments: str, cwd: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--port=0", "--host=localhost", *arguments]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if match := re.search(r"(http://localhost:\d+)/", line):
                yield match[1]
                break
        else:
            raise SystemExit("screenshots: TensorBoard ended before it listened")
    finally:
        process.terminate()
        process.communicate()


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="finished run folders")
    runs = parser.parse_args().runs
    visits: dict[str, Visit] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, chosen in (("report", runs), ("report-one", runs[:1])):
            page = Path(folder) / f"{name}.html"
            command = [sys.executable, "-m", "dydist.cli.main", "report", *map(str, chosen)]
            subprocess.run(
                [*command, "--output", str(page), "--no-png"], check=True, stdout=subprocess.DEVNULL
            )
            for kind, width, height, dark in (("wide", 1280, 1500, False), ("narrow", 420, 1500, True)):
                picture = IMAGES / f"{name}-{kind}.png"
                visits[picture.name] = visit(page.as_uri(), picture, width=width, height=height, dark=dark)
        visits["report-top.png"] = visit(page.as_uri(), IMAGES / "report-top.png", height=1000)
    with tensorboard({run.name: run for run in runs}) as address:
        for tab, name in (("custom_scalars", "tensorboard"), ("images", "tensorboard-images")):
            visits[name] = visit(f"{address}/#{tab}", IMAGES / f"{name}.png", height=1100, wait_ms=20000)
    for name, seen in visits.items():
        print(name, "errors:", seen.errors or "none", "requests to outside:", seen.outside or "none")
    if any(seen.errors or seen.outside for seen in visits.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
