"""Text tables for a terminal."""

from collections.abc import Container, Sequence

from ..values import escape_controls


def text_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Container[int] = (0,)
) -> str:
    """Align columns with two spaces between them; those with indices in `left` to the left."""
    cells = [[escape_controls(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            f"{text:<{width}}" if place in left else f"{text:>{width}}"
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)
