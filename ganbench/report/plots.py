"""Charts as SVG text: drawn in the page's own colours, readable by a screen reader, nothing fetched.

A series has a number. Number k gets colour k mod 8, marker k mod 5 and a dash for each round of colours. The eight (set
in page.css, for light and dark) are apart for the colour-blind too; entries of one colour differ in marker and dash.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

COLOURS, DASHES = 8, ("", "7 3", "2 3", "9 3 2 3")
WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 44
LOG_BEYOND = 25.0  # an axis whose values span a larger factor is logarithmic


@dataclass
class Series:
    """One line or group of points. `low` and `high`, where given, bound its band or its whiskers."""

    label: str
    number: int  # which colour, marker and dash; equal numbers are one entry on the whole page
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    faint: bool = False  # a single run beside its mean
    ends_badly: bool = False  # mark the last point with a cross


@dataclass
class Axis:
    """Maps values to pixels. Logarithmic where the values span more than a factor `log_beyond`, all being positive."""

    label: str
    values: Iterable[float]
    start: float
    end: float
    log_beyond: float = LOG_BEYOND
    zero: bool = False
    log: bool = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        finite = [v for v in self.values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        self.log = low > 0 and high / low > self.log_beyond
        if self.log:
            margin = (high / low) ** 0.04
            self.low, self.high = low / margin, high * margin
            return
        if self.zero:
            low = min(low, 0.0)
        margin = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        self.low = low if self.zero and low == 0 else low - margin
        self.high = high + margin

    def __call__(self, value: float) -> float:
        """The pixel of a value; values beyond the ends are put at them."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low) if value > 0 else 0.0
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values along the axis, about as many as wanted."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
                found = [s * 10.0 ** d for d in decades for s in steps if self.low <= s * 10.0 ** d <= self.high]
                if len(found) >= 3:
                    break
            return found[:: max(1, math.ceil(len(found) / 7))]
        raw = (self.high - self.low) / wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str,
               levels: Sequence[tuple[str, float]] = (), markers: bool = True, height: int = HEIGHT,
               log_beyond: float = LOG_BEYOND) -> str:
    """Curves with bands. `levels` are named dashed lines across (floors)."""
    values = [v for s in series for part in (s.y, s.low or (), s.high or ()) for v in part]
    x = Axis(x_label, [v for s in series for v in s.x], LEFT, WIDTH - RIGHT, log_beyond=1e4, zero=True)
    y = Axis(y_label, [*values, *(v for _, v in levels)], height - BOTTOM, TOP, log_beyond=log_beyond)
    parts = [*_frame(x, y, height), *_levels(levels, y)]
    for s in (s for s in series if s.low and s.high and len(s.x) > 1):
        edge = [*zip(s.x, s.high or ()), *reversed([*zip(s.x, s.low or ())])]
        parts.append(f'<path class="band c{s.number % COLOURS}" data-entry="{s.number}" d="{_path(edge, x, y)}Z"/>')
    for s in series:
        parts += _curve(s, x, y, markers)
    return _svg(parts, title, _description(series, x_label, y_label), height)


def interval_chart(rows: Sequence[tuple[Series, float | None, float | None]], *, title: str, x_label: str,
                   levels: Sequence[tuple[str, float]] = (), log_beyond: float = LOG_BEYOND) -> str:
    """One row an entry: a dot for each seed (series.x), the mean, and a bar from `low` to `high`."""
    left = min(190, 16 + max([7 * len(s.label) for s, _, _ in rows], default=0))
    values = [v for s, low, high in rows for v in (*s.x, *(b for b in (low, high) if b is not None))]
    levels = nearby(levels, values)
    top, step = TOP + 14 * len(levels), 24  # a line of text for each reference's name
    height = top + step * len(rows) + BOTTOM
    x = Axis(x_label, [*values, *(v for _, v in levels)], left, WIDTH - RIGHT, log_beyond=log_beyond)
    parts = _grid_x(x, height, top=top)
    for index, (s, low, high) in enumerate(rows):
        y, colour = top + step * (index + 0.5), f"c{s.number % COLOURS}"
        middle = mean(s.x)
        row = [f'<text class="name" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(s.label))}</text>']
        if low is not None and high is not None:
            row.append(f'<path class="bar {colour}" d="M{x(low):.1f} {y:.1f}H{x(high):.1f}"/>')
        row += [f'<circle class="seed {colour}" cx="{x(v):.1f}" cy="{y:.1f}" r="2.5"/>' for v in s.x]
        row.append(_marker(s.number, x(middle), y, f"{s.label}: {middle:.4g}", size=5))
        parts.append(f'<g data-entry="{s.number}">{"".join(row)}</g>')
    for index, (name, value) in enumerate(levels):
        start, line = x(value) < (left + WIDTH) / 2, TOP + 14 * index
        parts.append(f'<path class="level" d="M{x(value):.1f} {line}V{height - BOTTOM}"><title>{escape(name)}: '
                     f'{value:.4g}</title></path><text class="tick" x="{x(value) + (4 if start else -4):.1f}" '
                     f'y="{line + 9}" text-anchor="{"start" if start else "end"}">{escape(name)}</text>')
    description = "; ".join(f"{s.label} {sum(s.x) / len(s.x):.4g}" for s, _, _ in rows)
    return _svg(parts, title, f"{x_label}. {description}", height)


def scatter(series: Sequence[Series], *, title: str, x_label: str, y_label: str,
            levels: Sequence[tuple[str, float]] = (), log_beyond: float = LOG_BEYOND) -> str:
    """One point an entry, with whiskers from `low` to `high`."""
    values = [v for s in series for part in (s.y, s.low or (), s.high or ()) for v in part]
    levels = nearby(levels, values)
    x = Axis(x_label, [v for s in series for v in s.x], LEFT, WIDTH - RIGHT, log_beyond=8)
    y = Axis(y_label, [*values, *(v for _, v in levels)], HEIGHT - BOTTOM, TOP, log_beyond=log_beyond)
    parts = [*_frame(x, y, HEIGHT), *_levels(levels, y)]
    for s in series:
        whiskers = [f'<path class="bar c{s.number % COLOURS}" d="M{x(px):.1f} {y(low):.1f}V{y(high):.1f}"/>'
                    for px, low, high in zip(s.x, s.low or (), s.high or ())]
        points = [_marker(s.number, x(px), y(py), f"{s.label}: {x_label} {px:.4g}, {py:.4g}", size=5)
                  for px, py in zip(s.x, s.y)]
        parts.append(f'<g data-entry="{s.number}">{"".join([*whiskers, *points])}</g>')
    return _svg(parts, title, _description(series, x_label, y_label), HEIGHT)


def level_chart(series: Sequence[Series], names: Sequence[str], *, title: str, y_label: str, x_label: str = "level",
                references: Sequence[tuple[str, Sequence[tuple[float, float]]]] = ()) -> str:
    """Values at named places side by side; series.x are indices into `names`. `references` are dashed (index,
    value)."""
    values = [v for s in series for v in s.y] + [v for _, points in references for _, v in points]
    x = Axis(x_label, [-0.3, len(names) - 0.7], LEFT, WIDTH - RIGHT)
    y = Axis(y_label, values, HEIGHT - BOTTOM, TOP)
    parts = _grid_y(y, HEIGHT)
    parts += [f'<text class="tick" x="{x(i):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{escape(n)}</text>'
              for i, n in enumerate(names)]
    parts.append(f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
                 f'{escape(x_label)}</text>')
    for name, points in references:
        ends = [(px + d, py) for px, py in points for d in ((-0.25, 0.25) if len(points) == 1 else (0,))]
        parts.append(f'<path class="level" d="{_path(ends, x, y)}"><title>{escape(name)}</title></path>')
        if len(points) > 1:
            parts.append(f'<text class="tick" x="{x(points[0][0]):.1f}" y="{y(points[0][1]) - 6:.1f}">'
                         f'{escape(name)}</text>')
    for s in series:
        parts += _curve(s, x, y, True)
    return _svg(parts, title, _description(series, x_label, y_label), HEIGHT)


def swatch(number: int) -> str:
    """The key of a series for a legend."""
    return (f'<svg class="swatch" viewBox="0 0 30 12" width="30" height="12" aria-hidden="true">'
            f'<path class="line c{number % COLOURS}"{_dash(number)} d="M1 6H29"/>{_marker(number, 15, 6)}</svg>')


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def thinned(x: Sequence[float], y: Sequence[float], most: int = 240) -> tuple[list[float], list[float]]:
    """At most about `most` points: means of equal stretches."""
    stride = max(1, math.ceil(len(x) / most))
    pieces = [slice(i, i + stride) for i in range(0, len(x), stride)]
    return [mean(x[p]) for p in pieces], [mean(y[p]) for p in pieces]


def side_by_side(charts: Sequence[tuple[str, str]], *, title: str, style: str) -> str:
    """Charts beside each other as an SVG file of its own, light and dark. `style` is the page's style sheet."""
    rules = (style[style.index(":root"):style.index("* {")]
             + style[style.index("/* charts */"):style.index("/* pictures")])
    heights = [float(svg.split('viewBox="0 0 ', 1)[1].split('"')[0].split()[1]) for _, svg in charts]
    width = (WIDTH + 20) * len(charts) + 20
    lines = textwrap.wrap(title, width // 10)  # a bold letter takes about ten pixels
    top = 6 + 20 * len(lines)  # where the headings of the charts begin
    height = top + max(heights) + 44
    font = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" '
             f'height="{height:g}" {font}><title>{escape(title)}</title>'
             f'<style>{rules}.name,.head{{fill:var(--ink)}}</style>'
             f'<rect width="100%" height="100%" fill="var(--paper)"/>',
             *(f'<text class="head" x="20" y="{26 + 20 * index}" font-size="16" font-weight="600">{escape(line)}</text>'
               for index, line in enumerate(lines))]
    for index, ((heading, svg), tall) in enumerate(zip(charts, heights)):
        x = 20 + index * (WIDTH + 20)
        parts.append(f'<text class="head" x="{x}" y="{top + 26}" font-size="13" font-weight="600">'
                     f'{escape(heading)}</text>')
        parts.append(svg.replace("<svg ", f'<svg x="{x}" y="{top + 36}" width="{WIDTH}" height="{tall:g}" ', 1))
    return "".join([*parts, "</svg>\n"])


def _svg(parts: Sequence[str], title: str, description: str, height: float) -> str:
    return (f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img"><title>{escape(title)}</title>'
            f'<desc>{escape(description)}</desc>{"".join(parts)}</svg>')


def _description(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """What a screen reader says: where each series ends."""
    ends = "; ".join(f"{s.label} {s.y[-1]:.4g} at {s.x[-1]:.4g}" for s in series if len(s.y) and not s.faint)
    return f"{y_label} against {x_label}. {ends}"


def _frame(x: Axis, y: Axis, height: int) -> list[str]:
    return [*_grid_y(y, height), *_grid_x(x, height, lines=False)]


def _grid_y(y: Axis, height: int) -> list[str]:
    parts = []
    for value in y.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>'
                     f'<text class="tick" x="{LEFT - 7}" y="{y(value) + 4:.1f}" text-anchor="end">'
                     f'{_tick(value)}</text>')
    middle = (TOP + height - BOTTOM) / 2
    scale = ", logarithmic" if y.log else ""
    parts.append(f'<text class="label" transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">'
                 f'{escape(y.label + scale)}</text>')
    return parts


def _grid_x(x: Axis, height: float, lines: bool = True, top: float = TOP) -> list[str]:
    bottom, parts = height - BOTTOM, []
    for value in x.ticks():
        line = f"M{x(value):.1f} {top}V{bottom}" if lines else f"M{x(value):.1f} {bottom}v4"
        parts.append(f'<path class="grid" d="{line}"/><text class="tick" x="{x(value):.1f}" y="{bottom + 17}" '
                     f'text-anchor="middle">{_tick(value)}</text>')
    if not lines:
        parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
    scale = ", logarithmic" if x.log else ""
    parts.append(f'<text class="label" x="{(x.start + x.end) / 2:.1f}" y="{height - 6}" text-anchor="middle">'
                 f'{escape(x.label + scale)}</text>')
    return parts


def _levels(levels: Sequence[tuple[str, float]], y: Axis) -> list[str]:
    def below(at: float) -> float:
        # The name is under its line, away from the curves, unless that is where the axis is.
        return at + 13 if at + 16 < y.start else at - 4

    return [f'<path class="level" d="M{LEFT} {y(v):.1f}H{WIDTH - RIGHT}"/><text class="tick" x="{WIDTH - RIGHT - 2}" '
            f'y="{below(y(v)):.1f}" text-anchor="end">{escape(name)}</text>' for name, v in levels]


def _curve(s: Series, x: Axis, y: Axis, markers: bool) -> list[str]:
    points = [(px, py) for px, py in zip(s.x, s.y) if math.isfinite(py)]
    if not points:
        return []
    colour, faint = f"c{s.number % COLOURS}", " faint" if s.faint else ""
    drawn = []
    if len(points) > 1:
        drawn.append(f'<path class="line {colour}{faint}"{_dash(s.number)} d="{_path(points, x, y)}"/>')
    if markers and not s.faint:
        drawn += [_marker(s.number, x(px), y(py), f"{s.label}: {py:.4g} at {px:.4g}") for px, py in points]
    if s.ends_badly:
        px, py = x(points[-1][0]), y(points[-1][1])
        drawn.append(f'<path class="cross {colour}" d="M{px - 5:.1f} {py - 5:.1f}l10 10m0-10l-10 10">'
                     f'<title>{escape(s.label)} ended here</title></path>')
    return [f'<g data-entry="{s.number}">{"".join(drawn)}</g>']


def _path(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    return "M" + "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in points)


def _dash(number: int) -> str:
    dash = DASHES[number // COLOURS % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _marker(number: int, x: float, y: float, title: str = "", size: float = 3.5) -> str:
    r = size
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z",  # circle
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}Z",  # square
        f"M{x:.1f} {y - r * 1.2:.1f}l{r * 1.15:.1f} {r * 2.1:.1f}h{-r * 2.3:.1f}Z",  # triangle
        f"M{x:.1f} {y - r * 1.3:.1f}l{r * 1.3:.1f} {r * 1.3:.1f}l{-r * 1.3:.1f} {r * 1.3:.1f}"
        f"l{-r * 1.3:.1f} {-r * 1.3:.1f}Z",
        f"M{x:.1f} {y + r * 1.2:.1f}l{r * 1.15:.1f} {-r * 2.1:.1f}h{-r * 2.3:.1f}Z",  # triangle, point down
    )
    description = f"<title>{escape(title)}</title>" if title else ""
    return f'<path class="mark c{number % COLOURS}" d="{shapes[number % len(shapes)]}">{description}</path>'


def nearby(levels: Sequence[tuple[str, float]], values: Sequence[float]) -> list[tuple[str, float]]:
    """The reference lines that are close enough to the values that drawing them does not flatten these."""
    low, high = min(values, default=0.0), max(values, default=1.0)

    def near(value: float) -> bool:
        if min(low, value) > 0 and max(high, value) / min(low, value) > LOG_BEYOND:  # the axis would be logarithmic
            return low / 6 <= value <= high * 1.5
        return low - 0.7 * (high - low) <= value <= high + 0.25 * (high - low)

    return [(name, value) for name, value in levels if near(value)]


def _tick(value: float) -> str:
    if abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.6g}"


def _short(text: str, most: int = 25) -> str:
    return text if len(text) <= most else f"{text[:most - 1]}…"
