"""One HTML page about a data set: contact sheet, statistics of each channel, sizes of the originals, what was skipped.
"""

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data.store import Store, channel_statistics
from ganbench.errors import UserError
from ganbench.files import atomic_write

COLOURS = {1: ["#555"], 3: ["#c33", "#393", "#36c"]}  # others are all drawn in grey
NAMES = {1: ["grey"], 3: ["red", "green", "blue"]}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
img{max-width:100%;image-rendering:pixelated}svg{background:#f6f6f6}h2{margin-top:2rem}
.bar{background:#68a;height:.8em;display:inline-block}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}
svg{background:#262626}}"""


def write_page(store: Store, path: Path, shown: int = 100) -> None:
    """Write the page, whole or not at all. Raises UserError where it cannot be written."""
    manifest = store.manifest
    facts = {"split": store.split, "crop": store.crop,
             "images": f"{store.n:,} of {store.spoken_shape}",
             "mirrored in training": "yes" if store.mirror else "no", "from": manifest.get("title", ""),
             "content hash": store.content_hash}
    # head and contact sheet, then statistics, then what the manifest says about the originals
    parts = [f"<h1>{html.escape(store.name)}</h1>", _table(facts), "<h2>Images</h2>",
             f'<img alt="contact sheet" src="{_data_uri(contact_sheet(store, shown))}">',
             "<h2>Pixels</h2>", _pixels(store)]
    if store.labels is not None:
        counts = np.bincount(store.labels, minlength=len(store.classes))
        order = np.argsort(-counts, kind="stable")[:100]
        parts += ["<h2>Classes</h2>", _bars([(store.classes[i], int(counts[i])) for i in order])]
    if store.attributes is not None:
        counts = store.attributes.sum(0, dtype=int)
        parts += ["<h2>Attributes</h2>", _bars(list(zip(store.attribute_names, counts.tolist())))]
    sizes = list(manifest["sizes"].items())
    if others := manifest.get("sizes_other", 0):
        sizes.append(("other", others))
    parts += ["<h2>Sizes of the originals</h2>", _bars(sizes[:30])]
    for title, rows in (("Notes", [(line, "") for line in manifest.get("remarks", [])]),
                        ("Converted", list(manifest["converted"].items())),
                        (f"The same as an earlier image: {manifest['duplicate_count']:,}",
                         [(again, first) for first, again in manifest["duplicates"]]),
                        (f"Skipped: {len(manifest['skipped']):,}", [(line, "") for line in manifest["skipped"]])):
        if rows:
            parts += [f"<h2>{html.escape(title)}</h2>", _table(dict(rows))]
    text = (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(store.name)}</title>'
            f"<style>{STYLE}</style>{''.join(parts)}</html>")
    if not path.absolute().parent.is_dir():  # a mistyped folder is not made
        raise UserError(f"cannot write {path}: there is no such folder; choose another --html")
    atomic_write(path, text, remedy="choose another --html")


def contact_sheet(store: Store, shown: int = 100) -> Image.Image:
    """Images evenly spaced through the store, in a square of cells."""
    side = max((level for level in store.levels if level <= 128), default=store.levels[0])
    _, height, width = store.shape_at(side)
    picked = np.unique(np.linspace(0, store.n - 1, min(shown, store.n)).astype(int))
    columns = int(np.ceil(np.sqrt(len(picked))))
    rows = -(-len(picked) // columns)
    pixels = store.level(side)
    sheet = np.full((store.channels, rows * height, columns * width), 128, np.uint8)
    for place, index in enumerate(picked):
        y, x = divmod(place, columns)
        sheet[:, y * height:(y + 1) * height, x * width:(x + 1) * width] = pixels[index]
    # of four and more channels the first three are shown as colours, of two the first as grey
    return Image.fromarray(sheet[0] if store.channels < 3 else sheet[:3].transpose(1, 2, 0))


def _pixels(store: Store) -> str:
    mean, deviation = channel_statistics(store)
    names = NAMES.get(store.channels, [f"channel {i}" for i in range(store.channels)])
    rows = "".join(f"<tr><td>{n}<td>{m:.3f}<td>{d:.3f}" for n, m, d in zip(names, mean, deviation))
    some = store.level(store.side)[:: max(1, store.n // 1000)]
    lines = []
    for channel, colour in enumerate(COLOURS.get(store.channels, COLOURS[1] * store.channels)):
        counts = np.bincount(some[:, channel].ravel(), minlength=256).astype(float)
        heights = 120 * np.sqrt(counts / counts.max())  # square root: black backgrounds would hide all else
        points = " ".join(f"{2 * x},{120 - y:.1f}" for x, y in enumerate(heights))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    return (f"<table><tr><th>channel<th>mean (0..255)<th>deviation{rows}</table>"
            f'<svg width="512" height="120" role="img" aria-label="histogram of pixel values">{"".join(lines)}</svg>')


def _bars(rows: list[tuple[str, int]]) -> str:
    most = max((count for _, count in rows), default=1) or 1
    return "<table>" + "".join(f'<tr><td>{html.escape(str(name))}<td>{count:,}<td><span class="bar" style="width:'
                               f'{20 * count / most:.2f}rem"></span>' for name, count in rows) + "</table>"


def _table(rows: dict[str, object]) -> str:
    lines = (f"<tr><th>{html.escape(str(k))}<td>{html.escape(str(v))}" for k, v in rows.items())
    return f"<table>{''.join(lines)}</table>"


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
