"""Draws docs/images/one-idea.svg and architecture.svg: python docs/pictures.py"""

from __future__ import annotations

from html import escape
from pathlib import Path

IMAGES = Path(__file__).with_name("images")
COLOURS = ("#4c78a8", "#72a0c9", "#54a24b", "#88c47f", "#e0a020", "#eec565", "#b0508a", "#d08bb4")
INK, SOFT, PAPER = "#222222", "#777777", "#ffffff"


class Picture:
    """SVG elements in order; sizes in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, w: float, h: float, fill: str = PAPER, line: str = INK, dash: str = ""
    ) -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4" fill="{fill}" stroke="{line}"{dashes}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 13,
        ink: str = INK,
        at: str = "middle",
        bold: bool = False,
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{ink}" text-anchor="{at}"{weight}>'
            f"{escape(words)}</text>"
        )

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        *,
        arrow: bool = False,
        ink: str = INK,
        dash: str = "",
    ) -> None:
        end = ' marker-end="url(#arrow)"' if arrow else ""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{ink}"{end}{dashes}/>'
        )

    def write(self, name: str, title: str) -> None:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="Helvetica, Arial, sans-serif" role="img">\n'
            f"<title>{escape(title)}</title>\n"
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="{PAPER}"/>\n'
        )
        (IMAGES / f"{name}.svg").write_text(head + "\n".join(self.parts) + "\n</svg>\n", encoding="utf-8")


def shards(picture: Picture, x: float, y: float, size: float, numbers: range) -> None:
    """A strip of shards."""
    for place, number in enumerate(numbers):
        picture.box(x + place * size, y, size - 2, size - 2, COLOURS[number], COLOURS[number])
        picture.text(x + place * size + size / 2 - 1, y + size / 2 + 4, str(number), ink=PAPER, bold=True)


def one_idea() -> None:
    """A step on one, two and three processes, and a run cut up in time."""
    p = Picture(880, 560)
    p.box(20, 24, 150, 48)
    p.text(95, 44, "configuration", bold=True)
    p.text(95, 62, "recipe, flags, seed", size=12, ink=SOFT)
    p.line(170, 48, 236, 48, arrow=True)
    p.text(203, 40, "step t", size=12)
    p.text(244, 24, "global batch = 8 shards", at="start", size=12)
    shards(p, 244, 32, 34, range(8))
    p.text(534, 44, "images, augmentation, dropout mask, batch", at="start", size=12, ink=SOFT)
    p.text(534, 60, "statistics of a shard: by (seed, step, shard) alone", at="start", size=12, ink=SOFT)
    p.text(20, 112, "The machines decide who computes which shards …", at="start", bold=True)
    for x, name, cuts in (
        (20, "1 process", (8,)),
        (310, "2 processes", (4, 4)),
        (600, "3 processes", (3, 3, 2)),
    ):
        p.text(x, 138, name, at="start", size=12)
        first, left = 0, float(x)
        for rank, count in enumerate(cuts):
            p.box(left, 146, count * 28 + 6, 52, "#f4f4f4", SOFT)
            p.text(left + count * 14 + 3, 192, f"rank {rank}", size=11, ink=SOFT)
            shards(p, left + 4, 150, 28, range(first, first + count))
            first, left = first + count, left + count * 28 + 14
    p.text(
        20,
        236,
        "… and every sum is taken in one fixed tree, whoever holds the leaves (reduce=exact).",
        at="start",
        bold=True,
    )
    places = [330 + 34 * number + 16 for number in range(8)]
    shards(p, 330, 250, 34, range(8))
    y = 282.0
    while len(places) > 1:
        parents = [(a + b) / 2 for a, b in zip(places[::2], places[1::2], strict=True)]
        for parent, (a, b) in zip(parents, zip(places[::2], places[1::2], strict=True), strict=True):
            p.line(a, y, parent, y + 26)
            p.line(b, y, parent, y + 26)
        places, y = parents, y + 26
    p.line(places[0], y, places[0], y + 22, arrow=True)
    p.box(places[0] - 200, y + 24, 400, 30, "#eef5ea", COLOURS[2])
    p.text(places[0], y + 44, "weights after step t: the same bits on 1, 2 or 3 processes")
    p.text(20, 452, "So a run may be cut up in time as well.", at="start", bold=True)
    for left, right, words, colour in (
        (20, 270, "4 processes", COLOURS[1]),
        (284, 420, "1 process", COLOURS[3]),
        (434, 700, "3 processes", COLOURS[5]),
    ):
        p.box(left, 468, right - left, 26, colour, colour)
        p.text((left + right) / 2, 486, words)
    p.text(277, 512, "killed", size=12, ink=SOFT)
    p.text(427, 512, "time limit", size=12, ink=SOFT)
    p.line(704, 481, 742, 481, arrow=True)
    p.text(750, 478, "the end of the", at="start", size=12)
    p.text(750, 494, "uninterrupted run", at="start", size=12)
    p.text(
        20,
        540,
        "Saved: weights, momentum, batch-norm statistics, step, configuration. No random state, sampler or scheduler.",
        at="start",
        size=12,
        ink=SOFT,
    )
    p.write(
        "one-idea",
        "A run is a pure function of its configuration; the machines only decide how fast it is computed",
    )


def architecture() -> None:
    """Folders, and which calls which."""
    p = Picture(880, 400)

    def block(x: float, y: float, name: str, what: str, *, width: float = 148, fill: str = "#eef3f8") -> None:
        p.box(x, y, width, 50, fill)
        p.text(x + width / 2, y + 21, name, bold=True)
        p.text(x + width / 2, y + 39, what, size=11, ink=SOFT)

    p.text(20, 26, "on the login node, or your own machine", at="start", size=12, ink=SOFT)
    block(20, 44, "cli/", "the dydist command")
    block(230, 44, "jobs/", "submit, supervise")
    p.line(168, 69, 226, 69, arrow=True)
    block(440, 44, "inference/", "evaluate, predict, export")
    p.line(94, 44, 94, 36)
    p.line(94, 36, 514, 36)
    p.line(514, 36, 514, 42, arrow=True)
    p.box(10, 122, 860, 268, "#fcfcfc", SOFT, dash="5 4")
    p.line(514, 94, 514, 158, arrow=True)
    p.text(20, 142, "in every process of a run, started by accelerate launch", at="start", size=12, ink=SOFT)
    p.line(304, 94, 304, 118, arrow=True)
    p.text(316, 112, "a process boundary", at="start", size=12, ink=SOFT)
    block(20, 160, "train.py", "exit code")
    block(230, 160, "run/", "assemble, session")
    block(440, 160, "engine/", "shards, sums, the loop")
    p.line(168, 185, 226, 185, arrow=True)
    p.line(378, 185, 436, 185, arrow=True)
    for y, name, what in (
        (150, "data/", "images, order, augmentation"),
        (210, "models/", "dynamic convolution"),
        (270, "schedules.py", "lr, temperature"),
    ):
        block(680, y, name, what, width=170, fill="#eef5ea")
        p.line(588, 185, 676, y + 25, arrow=True)
    block(230, 290, "checkpoint/", "format, writer; on storage/", fill="#fbf3e0")
    block(20, 290, "monitor/", "TensorBoard, status, report", width=170, fill="#fbf3e0")
    p.line(304, 210, 304, 286, arrow=True, dash="4 3")
    p.line(94, 210, 94, 286, arrow=True, dash="4 3")
    p.text(20, 360, "handed in; they know nothing of engines", at="start", size=12, ink=SOFT)
    p.text(
        20,
        382,
        "Beneath all: config/, process/, text/, records.py, errors.py, randomness.py; none of them imports torch.",
        at="start",
        size=12,
        ink=SOFT,
    )
    p.write("architecture", "The folders of dydist and which imports which")


if __name__ == "__main__":
    one_idea()
    architecture()
