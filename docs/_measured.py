"""Write what README and two pages of docs say of results/: `make measured`, or python docs/_measured.py.

Between `<!-- from results: NAME -->` and `<!-- end -->` stands what this file makes of the tables in results/; a test
compares the two. With --runs SUITE FOLDER (its folder of runs) the page and the sheet of samples are made anew, too.
"""

import re
import subprocess
import sys
import textwrap
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import stats

import ganbench
from ganbench.report.comparison import build_table
from ganbench.report.text import cell_texts, number

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
PAGES = [ROOT / "README.md", ROOT / "docs" / "measured.md", ROOT / "docs" / "gallery.md"]
PART = re.compile(r"(<!-- from results: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
ZOO, LONG, PHOTOGRAPHS = "zoo-fashion-short", "zoo-fashion", "zoo-cifar10-short"
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")


def rewritten(page):
    """A page with its measured parts as results/ has them now."""
    parts = {"zoo": zoo, "zoo-ties": zoo_ties, "zoo-classes": zoo_classes, "zoo-count": zoo_count, "zoo-long": zoo_long,
             "cifar": cifar, "every-metric": every_metric, "tries": tries, "pggan": pggan,
             "stylegan": stylegan}
    return PART.sub(lambda m: m[1] + parts[m["name"]]() + "\n" + m[3], page.read_text(encoding="utf-8"))


# --- the zoo ----------------------------------------------------------------------------------------------------------

# what the one table shows: the scores on Inception's features first, by which it is ordered
COLUMNS = [("fid", ""), ("kid", ""), ("swd", "avg"), ("prdc", "density"), ("prdc", "coverage"),
           ("precision_recall", "precision"), ("precision_recall", "recall")]


def zoo_block(*metrics, suite=ZOO):
    """The comparison of the zoo by some metrics."""
    frame = ganbench.load_results(RESULTS / f"{suite}.csv")
    return build_table(frame[frame["metric"].isin([*metrics, ""])])[0]


def families(block):
    """The families of a comparison, each once."""
    return sorted({entry.family for entry in block.entries if not entry.reference})


def budget(block):
    """Images shown, as most entries have it; entries stop at the first whole batch beyond it."""
    [(kimg, _)] = Counter(round(entry.kimg) for entry in block.entries if entry.kimg).most_common(1)
    return f"{1000 * kimg:,}"


def seeds_of(entries):
    """ "three training seeds", "one to three training seeds"."""
    counts = [len(entry.seeds) for entry in entries if entry.seeds]
    return f"{span(counts)} training seed{'s' if max(counts) > 1 else ''}"


def span(counts):
    """ "two", "one or two", "one to three": the smallest and the largest of these counts that are not 0."""
    counts = sorted(set(counts) - {0})
    return (" or " if counts[-1] - counts[0] == 1 else " to ").join(map(word, counts[:1] + counts[1:][-1:]))


def table_order(block):
    """Place of an entry: references first, then by the leading column that it has a value in."""
    columns = [c for name in COLUMNS for c in block.columns if (c.metric, c.level) == name]

    def place(entry):
        for rank, column in enumerate(columns):
            if entry.cells[column].last_summary:
                mean = entry.cells[column].last_summary.mean
                return not entry.reference, rank, -mean if column.higher_is_better else mean
        return not entry.reference, len(columns), 0.0
    return columns, place


def zoo():
    """What was compared, and the table: last values, the entries by FID."""
    block = zoo_block(*dict(COLUMNS))
    columns, _ = table_order(block)
    trained = [entry for entry in block.entries if not entry.reference]
    # the scores on Inception were added run by run, so some may be missing
    scored = [len(entry.cells[columns[0]].last) for entry in trained]
    some = "" if scored == [len(e.seeds) for e in trained] else f", of {span(scored)} of the seeds"
    about = (f"{word(len(families(block))).capitalize()} families on Fashion-MNIST at {block.side} px, each with its "
             f"`laptop` preset, {budget(block)} real images shown, {seeds_of(trained)}, {columns[0].n_fake:,} images a "
             f"side at the end of training. FID, KID, PRDC and precision/recall on FID's Inception in bf16{some}; SWD "
             f"x 1000. Means over seeds, ± {MARKS} Code at commit {commits(trained)}.{settings_of(trained)}")
    return "\n".join([wrapped(about), "", *score_table(block)])


MARKS = ("half of their 95% interval; ≈ is not distinguishable from the leading entry, ▾ is worse, ? cannot be tested "
         "with single seeds.")


def commits(entries):
    """The commits that the rows of entries were made at."""
    return " and ".join(sorted({commit[:7] for entry in entries for commit in entry.commits}))


def label_of(entry):
    """An entry's name in a narrow column; what was set beside its preset is said by settings_of."""
    return f"{entry.family} ({entry.preset}, changed)" if entry.settings else entry.label


def settings_of(entries):
    """ " Changed: ...", what entries had set beside their presets; nothing where none had."""
    changed = [f"{entry.family} with {', '.join(entry.settings.split())}" for entry in entries if entry.settings]
    return f" Changed: {'; '.join(changed)}." if changed else ""


def score_table(block):
    """Lines of a table of last values, in its order."""
    columns, place = table_order(block)
    names = [(c.metric if c.metric != "precision_recall" else "", c.level, c.arrow) for c in columns]
    head = ["", "seeds", *(" ".join(filter(None, name)) for name in names)]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for entry in sorted(block.entries, key=place):
        cells = [cell_texts(entry, column)[0] for column in columns]
        lines.append(f"| {' | '.join([label_of(entry), str(len(entry.seeds) or ''), *cells])} |")
    return lines


def cifar():
    """The same of the leaders on CIFAR-10."""
    block = zoo_block("fid", "kid", "swd", suite=PHOTOGRAPHS)
    columns, _ = table_order(block)
    trained = [entry for entry in block.entries if not entry.reference]
    about = (f"{word(len(families(block))).capitalize()} families on CIFAR-10, `laptop` presets, {budget(block)} real "
             f"images shown, {seeds_of(trained)}, {columns[0].n_fake:,} images a side at the end; FID and KID on FID's "
             f"Inception in float32. Means over seeds, ± {MARKS} Code at commit {commits(trained)}.")
    return "\n".join([wrapped(about), "", *score_table(block)])


def zoo_ties():
    """How many entries the data cannot tell from the leading one by two metrics, and how many seeds would."""
    block = zoo_block("fid", "swd")
    columns = [c for c in block.columns if (c.metric, c.level) in (("fid", ""), ("swd", "avg"))]
    return wrapped(" ".join([*(ties(block, column) for column in columns), "Seeds in brackets: how many a side would "
                             "show the difference seen, were it the true one, four times in five, each pair by itself. "
                             "Minutes of training say how the suite works, and little about the papers."]))


def ties(block, column):
    """Who leads by a metric, and who cannot be told from it."""
    entries = [entry for entry in block.entries if entry.cells[column].standing]
    leader = next((entry for entry in entries if entry.cells[column].standing.leads), None)
    if leader is None or all(entry.cells[column].standing.mark == "untested" for entry in entries):
        return f"By {column.title}, single seeds allow no test of who leads."
    tied = [e for e in entries if e is not leader and e.cells[column].standing.mark not in ("worse", "untested")]
    if not tied:
        return f"By {column.title}, {label_of(leader)} leads; every other entry is worse."
    needed = ", ".join(f"{label_of(e)} [{seeds_needed(leader.cells[column], e.cells[column])}]" for e in tied)
    return f"By {column.title}, {label_of(leader)} leads; not told from it, of {len(entries) - 1} others: {needed}."


def seeds_needed(one, other):
    """Seeds a side for a two-sided t test at 5% to show the difference of two cells' means with 80% power."""
    values = [list(cell.last.values()) for cell in (one, other)]
    if min(map(len, values)) < 2:
        return "unknown"
    difference = abs(np.mean(values[0]) - np.mean(values[1]))
    effect = difference / np.sqrt(np.mean([np.var(v, ddof=1) for v in values]))
    for count in range(2, 1000):
        freedom, shift = 2 * count - 2, effect * np.sqrt(count / 2)
        if stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, shift) >= 0.8:
            return str(count)
    return "1,000 or more"


def zoo_long():
    """The leading entries after more images, and how far FID fell."""
    block = zoo_block(*dict(COLUMNS), suite=LONG)
    trained = [entry for entry in block.entries if not entry.reference]
    about = (f"{word(len(families(block))).capitalize()} of these families with {budget(block)} images, "
             f"{seeds_of(trained)}, all else as above. Code at commit {commits(trained)}.")
    fids = [{(e.family, e.preset): list(e.cells[c].last.values()) for e in found.entries for c in found.columns
             if c.metric == "fid"} for found in (zoo_block("fid"), block)]
    before, after = ({name: values for name, values in found.items() if name in fids[1] and len(values) > 1}
                     for found in fids)
    falls = [f"{name[0]} {np.mean(before[name]):.3g} and {np.mean(values):.3g} "
             f"(p = {stats.ttest_ind(before[name], values, equal_var=False).pvalue:.2g})"
             for name, values in after.items()]
    orders = [sorted(after, key=lambda name, found=found: np.mean(found[name])) for found in (before, after)]
    fell = (f"Mean FID in the table above and here, of trainings of their own, and p of Welch's t test: "
            f"{', '.join(falls)}. The order is {'the same' if orders[0] == orders[1] else 'another'}. FID extrapolated "
            f"to infinitely many images, of sngan's first seed alone: {last(LONG, 'sngan', 'fid_infinity', '')}, from "
            "8,192.")
    return "\n".join([wrapped(about), "", *score_table(block), "", wrapped(fell)])


def zoo_classes():
    """How often samples of conditional families are recognised as their class."""
    block = zoo_block("class_accuracy")
    column = next(c for c in block.columns if c.level == "")
    lines = [f"{label_of(e)} {100 * s.mean:.0f}%" + (f" ± {100 * s.half:.0f}" if s.half else "")
             for e in block.entries if (s := e.cells[column].last_summary)]
    reals = next((e.cells[c].last_summary for e in block.entries for c in block.columns
                  if c.level == "reals" and e.cells[c].last_summary), None)
    known = f" (reals: {100 * reals.mean:.0f}%)" if reals else ""
    return wrapped(f"Samples recognised as their class by a classifier trained on the data{known}: {', '.join(lines)}.")


def zoo_count():
    """A line below the picture."""
    block = zoo_block("swd")
    return (f"{word(len(families(block))).capitalize()} families on Fashion-MNIST at {block.side} px, laptop presets, "
            f"{budget(block)} images shown.")


# --- every metric -----------------------------------------------------------------------------------------------------

def every_metric():
    """A line for each metric and level of the suite that has them all, a column for references and families."""
    frame = ganbench.load_results(RESULTS / "every-metric.csv")
    frame = frame[(frame["metric"] != "") & frame["metric"].notna()].sort_values("kimg")
    trained = frame.loc[frame["origin"] == "ganbench", "family"]
    names = ["reals against reals", "noise images", *sorted(trained.unique())]
    lines = [f"| metric | level | {' | '.join(names)} |", "|---|---|" + "---:|" * len(names)]
    for (metric, level), rows in frame.groupby(["metric", "level"], dropna=False):
        last = {row["family"]: row for _, row in rows.iterrows()}
        values = [cell(last[name]) if name in last else "" for name in names]
        lines.append(f"| {metric} | {level if isinstance(level, str) else ''} | {' | '.join(values)} |")
    return "\n".join(lines)


def cell(row):
    """A value with as many digits as its interval lets stand."""
    half = (row["ci_high"] - row["ci_low"]) / 2
    return number(row["value"], half) if half > 0 else f"{row['value']:.4g}"


# --- how two presets were chosen --------------------------------------------------------------------------------------

def tries():
    """A line for each trial: what was set beside the preset of then, and its scores at the end."""
    frame = ganbench.load_results(RESULTS / "preset-tries.csv")
    lines = ["| family | changed | images | minutes | swd avg ↓ | ms_ssim | bits/dim ↓ |",
             "|---|---|---:|---:|---:|---:|---:|"]
    for _, rows in frame.groupby("run", sort=False):
        first = rows.iloc[0]
        value = rows.set_index(["metric", "level"])["value"].to_dict()
        scores = [f"{value[key]:.{digits}f}" if key in value else ""
                  for key, digits in ((("swd", "avg"), 0), (("ms_ssim", ""), 2), (("bits_per_dim", ""), 3))]
        cells = [first["family"], ", ".join(first["settings"].split()), f"{1000 * first['kimg']:,.0f}",
                 f"{first['seconds'] / 60:.0f}", *scores]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- single trainings -------------------------------------------------------------------------------------------------

def last(table, family, metric, level, n=None):
    """ "10.6 [8.6, 12.7]": the last value of a family in a table."""
    frame = ganbench.load_results(RESULTS / f"{table}.csv")
    found = frame[(frame["family"] == family) & (frame["metric"] == metric) & (frame["level"] == level)]
    row = (found if n is None else found[found["n_fake"] == n]).sort_values("kimg").iloc[-1]
    half = (row["ci_high"] - row["ci_low"]) / 2
    return f"{number(row['value'], half)} [{number(row['ci_low'], half)}, {number(row['ci_high'], half)}]"


def pggan():
    """PGGAN beside DCGAN, at both numbers of images."""
    many, few = ([last("pggan-fashion", name, "swd", "avg", n) for name in ("pggan", "dcgan")] for n in (8192, 2048))
    return wrapped(f"Scored with 8,192 images a side at the end, its SWD is {many[0]}; DCGAN's `laptop` preset has "
                   f"{many[1]} after equally many images. At the 2,048 images planned they were {few[0]} and {few[1]}. "
                   "The intervals are one evaluation's; one training seed each (`results/pggan-fashion.csv`).")


def stylegan():
    """Path lengths and SWD of the one StyleGAN."""
    names = {"z_full": "z full", "z_end": "z end", "w_full": "w full", "w_end": "w end"}
    lengths = ", ".join(f"{name} {last('stylegan-fashion', 'stylegan', 'ppl', level)}" for level, name in names.items())
    return wrapped(f"Perceptual path length with LPIPS-VGG16 over 2,048 pairs: {lengths}; SWD "
                   f"{last('stylegan-fashion', 'stylegan', 'swd', 'avg')} (`results/stylegan-fashion.csv`).")


def wrapped(text):
    """Lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def word(count):
    """ "three"; digits beyond twenty."""
    return WORDS[count] if count < len(WORDS) else str(count)


# --- what needs the runs ----------------------------------------------------------------------------------------------

def remake(suite, runs):
    """The page with its samples, and the sheet of samples: of each family the first seed's newest grid."""
    title = tomllib.loads((ROOT / "benchmarks" / f"{suite}.toml").read_text(encoding="utf-8"))["title"]
    # from the root: the page says by which command it was made
    subprocess.run([sys.executable, "-m", "ganbench", "report", f"results/{suite}.csv", "--title", title,
                    "--runs", str(runs), "--html", f"results/{suite}.html"], check=True, cwd=ROOT)
    frame = ganbench.load_results(RESULTS / f"{suite}.csv")
    trained = frame[frame["origin"] == "ganbench"].sort_values(["seed", "run"])
    pictures = {}
    for (family, preset), rows in trained.groupby(["family", "preset"]):
        grids = [g for name in dict.fromkeys(rows["run"]) for g in sorted((runs / name / "grids").glob("*.png"))[-1:]]
        if grids:
            mode = "L" if (rows["channels"] == 1).all() else "RGB"
            pictures[f"{family} ({preset})"] = Image.open(grids[0]).convert(mode)
    sheet(pictures).save(ROOT / "docs" / "pictures" / f"{suite}.png")


def sheet(pictures, across=3, size=(272, 102), line=20):
    """Labelled corners of grids, `across` in a row; grey where all are."""
    down = -(-len(pictures) // across)
    mode = "RGB" if any(picture.mode != "L" for picture in pictures.values()) else "L"
    made = Image.new(mode, (across * (size[0] + 8), down * (size[1] + line + 8)), "white")
    for place, (label, picture) in enumerate(sorted(pictures.items())):
        x, y = place % across * (size[0] + 8), place // across * (size[1] + line + 8)
        ImageDraw.Draw(made).text((x + 2, y + 4), label, fill="black")
        # grids are enlarged by a whole factor; here their pixels are shown as they are
        factor = max(1, picture.width // size[0])
        pixels = np.asarray(picture.convert(mode))[::factor, ::factor]
        made.paste(Image.fromarray(pixels[:size[1], :size[0]]), (x, y + line))
    return made


if __name__ == "__main__":
    if sys.argv[1:2] == ["--runs"]:
        remake(sys.argv[2], Path(sys.argv[3]))
    for page in PAGES:
        page.write_text(rewritten(page), encoding="utf-8")
