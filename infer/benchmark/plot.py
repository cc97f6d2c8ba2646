"""A plot of the passes' times over the window, drawn with Pillow."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw, ImageFont

from pure_jax.infer.benchmark.report import Measured, Report

SIZE = (960, 600)
LEFT, RIGHT, TOP, BOTTOM = 90, 250, 50, 60
INKS = ("#1f4e9c", "#c2571a", "#2c7a3f", "#8a2f8f", "#7a6a10", "#a01f3c")
GREY = "#b8b8b8"


def plotted(report: Report) -> Image.Image:
    """RGB [960 x 600]: milliseconds per pass over tokens per row and pass, both logarithmic; dashed is the roofline."""
    image = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    series: dict[tuple[str, int], list[Measured]] = {}
    for m in report.measured:
        series.setdefault((m.precision, m.batch), []).append(m)
    times = [1e3 * s for m in report.measured for s in (m.timed.seconds, m.bound_s)] or [1.0]
    low, high = 10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times) * 1.01))
    most = max([2, *(m.window for m in report.measured)])

    def at(window: float, ms: float) -> tuple[float, float]:
        across, up = math.log(window) / math.log(most), math.log(ms / low) / math.log(high / low)
        return LEFT + across * (SIZE[0] - LEFT - RIGHT), SIZE[1] - BOTTOM - up * (SIZE[1] - TOP - BOTTOM)

    weights = ", random weights" if all(b.random for b in report.bounds) else ""
    title = f"{report.name}{weights}, {report.grid[0]}x{report.grid[1]} codes, {report.device}: ms per pass"
    draw.text((LEFT, 16), title, "black", font)
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        draw.line([at(1, 10**exponent), at(most, 10**exponent)], GREY)
        draw.text((LEFT - 10, at(1, 10**exponent)[1]), f"{10.0**exponent:g}", "black", font, anchor="rm")
    for exponent in range(round(math.log2(most)) + 1):
        draw.line([at(2**exponent, low), at(2**exponent, high)], GREY)
        draw.text((at(2**exponent, low)[0], SIZE[1] - BOTTOM + 8), f"{2**exponent}", "black", font, anchor="mt")
    draw.text(((LEFT + SIZE[0] - RIGHT) / 2, SIZE[1] - 24), "tokens per row and pass", "black", font, anchor="mt")
    for i, ((precision, batch), rows) in enumerate(series.items()):
        ink = INKS[i % len(INKS)]
        rows = sorted(rows, key=lambda m: m.window)
        points = [at(m.window, 1e3 * m.timed.seconds) for m in rows]
        draw.line(points, ink, 2)
        for x, y in points:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), ink)
        bounds = [at(m.window, 1e3 * m.bound_s) for m in rows]
        for (x, y), (to_x, to_y) in zip(bounds, [*bounds[1:], (bounds[-1][0] + 8, bounds[-1][1])], strict=True):
            for part in range(8):
                begin, end = part / 8, (part + 0.5) / 8
                dash = [(x + f * (to_x - x), y + f * (to_y - y)) for f in (begin, end)]
                draw.line(dash, ink, 1)
        draw.text((SIZE[0] - RIGHT + 20, TOP + 24 * i), f"{precision}, batch {batch}", ink, font)
    draw.text((SIZE[0] - RIGHT + 20, TOP + 24 * len(series)), "dashed: roofline", "black", font)
    return image
