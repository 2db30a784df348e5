"""HTML reports: one file with its pictures as base64, without scripts and network requests."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..disk import write_file
from ..values import escape_controls

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 66rem; margin: 2rem auto; padding: 0 1.2rem; }
h1, h2 { line-height: 1.25; } h2 { margin-top: 2.6rem; }
p { max-width: 48rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.4rem; align-items: flex-start; }
figure { margin: 0; }
figure.whole { width: 100%; }
figure.half { width: calc(50% - 0.7rem); } figure.third { width: calc(33.3% - 0.95rem); }
@media (max-width: 45rem) { figure.half, figure.third { width: 100%; } }
img { width: 100%; height: auto; display: block; }
figure.half img, figure.third img { image-rendering: pixelated; border: 1px solid #ddd; }
figcaption { font-size: 0.85rem; color: #555; margin-top: 0.35rem; }
figcaption b { color: #222; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums;
        margin: 0.8rem 0; }
th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd;
         vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } td small { color: #666; }
th { border-bottom: 2px solid #888; font-weight: 600; vertical-align: bottom; }
pre { font-size: 0.85rem; background: #f5f5f5; padding: 0.8rem 1rem; overflow-x: auto;
      white-space: pre-wrap; }
"""


PageTable: TypeAlias = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Heads, and the rows of text under them; the second line of a cell is small."""


@dataclass(frozen=True)
class Picture:
    """The content of a PNG, an animated PNG or a GIF, with a caption.

    `title` stands in bold before the caption, and is the alternative text. Pictures of half or a
    third of the page's `width` keep square pixels.
    """

    content: bytes
    caption: str
    title: str
    width: Literal["whole", "half", "third"] = "whole"


@dataclass(frozen=True)
class Section:
    """A section of the page, with its pieces in this order.

    `text` is paragraphs, separated by blank lines. `verbatim` is preformatted, and so is `folded`,
    which is hidden until opened. Pictures stand side by side where there is room.
    """

    title: str
    text: str = ""
    tables: Sequence[PageTable] = ()
    verbatim: str = ""
    pictures: Sequence[Picture] = ()
    folded: str = ""


def write_report(path: Path, sections: Sequence[Section], *, title: str) -> None:
    """Write a report; an earlier one is replaced."""
    body = "\n".join([f"<h1>{escape(title)}</h1>", *map(_section_html, sections)])
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
    write_file(path, page.encode())


def escape(text: str) -> str:
    """Return text as HTML that shows it, control characters too."""
    return html.escape(escape_controls(text, lines=True))


def _section_html(section: Section) -> str:
    pictures = "\n".join(map(_picture_html, section.pictures))
    folded = f"<details><summary>Details</summary><pre>{escape(section.folded)}</pre></details>"
    pieces = [
        f"<h2>{escape(section.title)}</h2>",
        *(f"<p>{escape(part)}</p>" for part in section.text.split("\n\n") if part),
        *map(_table_html, section.tables),
        f"<pre>{escape(section.verbatim)}</pre>" * bool(section.verbatim),
        f'<div class="pictures">\n{pictures}\n</div>' * bool(pictures),
        folded * bool(section.folded),
    ]
    return "\n".join(["<section>", *filter(None, pieces), "</section>"])


def _table_html(table: PageTable) -> str:
    heads, rows = table
    lines = ["".join(f"<th>{escape(head)}</th>" for head in heads)]
    for row in rows:
        cells = (escape(cell).partition("\n") for cell in row)
        small = ((first, f"<br><small>{b}</small>" * bool(b)) for first, _, b in cells)
        lines.append("".join(f"<td>{first}{second}</td>" for first, second in small))
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>\n{body}\n</table></div>'


def _picture_html(picture: Picture) -> str:
    kind = "gif" if picture.content.startswith(b"GIF") else "png"
    data = base64.b64encode(picture.content).decode()
    title = escape(picture.title)
    return (
        f'<figure class="{picture.width}">\n'
        f'<img alt="{title}" src="data:image/{kind};base64,{data}">\n'
        f"<figcaption><b>{title}</b> {escape(picture.caption)}</figcaption>\n</figure>"
    )
