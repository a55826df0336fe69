"""What papers said, and what came out here: docs/questions.md, made from the committed rows alone.

    python docs/_questions.py > docs/questions.md

Every answer is computed from a file in results/ that a suite in benchmarks/ wrote; each says the seeds behind it. A
suite that has no file yet is left out, and named at the end.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr, ttest_ind_from_stats

from ganbench import load_results
from ganbench.records import setting_text

ROOT = Path(__file__).parents[1]
HEAD = """# What papers said, and what came out here

Small versions of the papers' own questions: laptop networks, minutes of training, CPUs. They show whether an effect is
seen at this size, not whether a paper is right. Made by `python docs/_questions.py` from the rows in `results/`;
each suite is run again by the command beside it.
"""


def main() -> None:
    """Print the page."""
    answers: dict[str, Callable[[pd.DataFrame], str]] = {
        "wgan-loss": wgan_loss, "r3gan-stacked-mnist": stacked_mnist, "gamma-sweep": gamma_sweep,
        "likelihood": likelihood, "pggan-table1-32": pggan_parts, "stylegan-table1-32": stylegan_steps}
    parts, missing = [HEAD], []
    for suite, answer in answers.items():
        rows = ROOT / "results" / f"{suite}.csv"
        if rows.is_file():
            frame = load_results(rows)
            parts.append(f"{answer(frame)}\n{measured_on(suite, trained(frame))}\n")
        else:
            missing.append(f"`{suite}`")
    modes = ROOT / "results" / "mixtures.csv"
    if modes.is_file():
        parts.append(mixtures(pd.read_csv(modes)))
    if missing:
        parts.append("## Not measured yet\n\nPrepared, and without rows: " + ", ".join(missing) + ".\n")
    print("\n".join(parts), end="")


def measured_on(suite: str, runs: pd.DataFrame) -> str:
    """The data, lengths, seeds and numbers of images behind an answer, and where its rows are."""
    seeds, shown = runs["seed"].nunique(), runs["kimg"].max()
    # of metrics without generated images, the real ones
    n = {metric: max(rows["n_fake"].max(), rows["n_real"].max() if not rows["n_fake"].max() else 0)
         for metric, rows in runs.groupby("metric")}
    about = (f"`ganbench bench {suite}`: {', '.join(runs['dataset'].unique())} at {runs['side'].max()} px, "
             f"{round(shown) * 1000:,} real images shown, {seeds} training seed{'s' if seeds > 1 else ''}, "
             f"{', '.join(f'{metric} on {count:,} images' for metric, count in n.items())}. "
             f"Rows in `results/{suite}.csv`, code at commit {', '.join(runs['git_commit'].str[:7].unique())}.")
    return textwrap.fill(about, 120, break_long_words=False, break_on_hyphens=False)


def wgan_loss(frame: pd.DataFrame) -> str:
    """The rank correlation of the critic's estimate and SWD along each run."""
    lines, every = [], []
    for family, runs in trained(frame).groupby("family"):
        correlations = []
        for _, run in runs.groupby("run"):
            curve = run.pivot_table(index="kimg", columns=["metric", "level"], values="value")
            if ("wasserstein_gap", "train") not in curve:  # the critic estimates no distance
                continue
            correlations.append(float(spearmanr(curve["wasserstein_gap", "train"], curve["swd", "avg"]).statistic))
        if not correlations:
            continue
        every += correlations
        mean = sum(correlations) / len(correlations)
        lines.append(f"| {family} | {mean:+.2f} | {min(correlations):+.2f} to {max(correlations):+.2f} |")
    points = trained(frame)["kimg"].nunique()
    return f"""## Does the critic's loss follow sample quality?

**Published** (Arjovsky et al. 2017, figures 3 and 4): WGAN's estimate of the distance falls as samples improve; the
loss of a standard GAN tells nothing of them.

**Here**: Spearman's rank correlation along a run of {points} evaluations between the critic's estimate on training
images, mean D(x) - mean D(G(z)), and SWD. Near 1 the estimate can stand in for the metric. DCGAN's critic estimates no
distance: its rows have SWD alone, and the second half of the claim was not looked at.

| family | mean over seeds | single seeds |
|---|---:|---:|
""" + "\n".join(lines) + f"""

**Agreement**: positive in {sum(found > 0 for found in every)} of {len(every)} runs, smallest {min(every):+.2f}.

""" + clipped_weights()


def clipped_weights() -> str:
    """Where the critics of the same runs have their weights."""
    frame, lines = pd.read_csv(ROOT / "results" / "wgan-weights.csv"), []
    for family, runs in frame.groupby("family"):
        shares = [f"{100 * share:.2g}%" for share in runs["share_at_ends"]]
        lines.append(f"| {family} | {', '.join(shares)} | {runs['q0.5'].mean():.2f} | {runs['q0.95'].mean():.2f} |")
    fewest, most = (100 * frame.loc[frame["family"] == family, "share_at_ends"].agg(which)
                    for family, which in (("wgan", "min"), ("wgan_gp", "max")))
    return """## Does clipping push the weights to its ends?

**Published** (Gulrajani et al. 2017, section 3, figure 1b): clipped critics have their weights at the two ends of the
range; with the gradient penalty they have not.

**Here**: the critics of the runs above, at their end. "At the ends": the share of weights within 1% of the largest,
which is the clip for WGAN; weights that are evenly spread have 1% there. Quantiles are of absolute weights over the
largest.

| family | at the ends, each seed | median | 95% quantile |
|---|---:|---:|---:|
""" + "\n".join(lines) + f"""

**Agreement**: the fewest of the clipped {fewest:.2g}%, the most of the penalised {most:.2g}%.

`python docs/_critic_weights.py RUNS` on those runs, rows in `results/wgan-weights.csv`.
"""


def stacked_mnist(frame: pd.DataFrame) -> str:
    """Modes found and reverse KL of each loss and penalty."""
    last = final(frame)
    last = last.assign(variant=[f"{field(s, 'loss')}, {field(s, 'penalties')}" for s in last["settings"]])
    lines, modes = [], {}
    for variant, rows in last.groupby("variant"):
        levels = {level: found["value"] for level, found in rows[rows["metric"] == "mode_coverage"].groupby("level")}
        modes[variant] = levels[""]
        cells = [f"{values.mean():.4g} ({', '.join(f'{v:.4g}' for v in values)})" for values in levels.values()]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    heads = " | ".join(str(level) or "modes" for level in levels)
    both, plain, alone = (modes[name] for name in ("relativistic, r1+r2", "logistic, r1+r2", "relativistic, r1"))
    return f"""## Does pairing reals and fakes, with both penalties, find more modes?

**Published** (Huang et al. 2024, table 2, their networks and training): relativistic loss with R1 and R2 1,000 modes of
stacked MNIST and KL 0.078; the original loss with both penalties 693 and 0.927; R1 alone fails.

**Here**: mean over seeds (single seeds).

| loss, penalties | {heads} |
|---|{'---|' * len(levels)}
""" + "\n".join(lines) + f"""

**Agreement**: R1 and R2 against R1 alone: {compared(both, alone)}.
Relativistic against the original loss, both with both penalties: {compared(both, plain)}.
"""


def mixtures(frame: pd.DataFrame) -> str:
    """Modes of the plane's mixtures found with each loss."""
    lines = []
    for loss in frame["loss"].unique():
        cells = []
        for mixture in ("ring", "grid"):
            rows = frame[(frame["loss"] == loss) & (frame["mixture"] == mixture)]
            cells += [each(rows["modes"]), f"{100 * rows['good'].mean():.0f}%"]
        lines.append(f"| {loss} | " + " | ".join(cells) + " |")
    of = frame.groupby("mixture")["modes_of"].first()
    modes = {loss: rows["modes"] for loss, rows in frame[frame["mixture"] == "grid"].groupby("loss")}
    ring = frame[frame["mixture"] == "ring"]
    whole = int((ring["modes"] == ring["modes_of"]).sum())
    return f"""## Which losses find all Gaussians of a mixture in the plane?

**Published** (Metz et al. 2016, arXiv 1611.02163, figure 2): the original loss goes from mode to mode of a ring and
loses the others. A Wasserstein critic with its penalty sees all modes (Gulrajani et al. 2017, figure 1a); pairing reals
and fakes is argued to keep them (Huang et al. 2024, section 2).

**Here**: small networks, {frame['steps'].max():,} updates of the generator for every loss, rates falling to zero; a
Wasserstein critic has five updates to one of the generator's, the others one. {frame['n'].max():,} samples.
Found: a sample within three deviations, stray ones included; mean over
{frame['seed'].nunique()} seeds (single seeds). Good: share of the samples so near to a mode; 98.9% of the mixture's
own.

| loss | of {of['ring']} on a ring | good | of {of['grid']} on a grid | good |
|---|---:|---:|---:|---:|
""" + "\n".join(lines) + f"""

**Agreement**, on the grid. Modes found, Wasserstein with the penalty against the original:
{compared(modes['Wasserstein, penalty'], modes['original'])};
relativistic with R1 and R2 against the original:
{compared(modes['relativistic, R1 and R2'], modes['original'])}.
On the ring {whole} of {len(ring)} runs find all modes.

![Samples of the first seed, modes as circles](pictures/mixtures.png)

`python docs/_mixtures.py docs/pictures/mixtures.png > results/mixtures.csv`: rows in `results/mixtures.csv`.
"""


def gamma_sweep(frame: pd.DataFrame) -> str:
    """The ratio of losses reached, and diversity, for each gamma."""
    last = final(frame)
    last = last.assign(gamma=[float(field(s, "gamma")) for s in last["settings"]])
    lines, ssim, misses = [], {}, []
    for gamma, rows in last.groupby("gamma"):
        ssim[gamma] = rows.loc[rows["metric"] == "ms_ssim", "value"]
        reached = rows.loc[(rows["metric"] == "m_global") & (rows["level"] == "ratio"), "value"]
        misses += list((reached / gamma - 1).abs())
        def mean(metric: str, level: str, rows: pd.DataFrame = rows) -> str:
            return each(rows.loc[(rows["metric"] == metric) & (rows["level"] == level), "value"])
        lines.append(f"| {gamma:g} | {mean('m_global', 'ratio')} | {mean('ms_ssim', '')} | {mean('swd', 'avg')} |")
    clean, diverse = ssim[min(ssim)], ssim[max(ssim)]
    return """## BEGAN: does gamma set the balance, and with it diversity?

**Published** (Berthelot et al. 2017, section 4.1): the controller holds L(G(z)) / L(x) at gamma; larger gamma gives
more diverse, less clean images.

**Here**: mean over seeds (single seeds). MS-SSIM of pairs falls as diversity grows.

| gamma | ratio reached | MS-SSIM of pairs | SWD |
|---:|---:|---:|---:|
""" + "\n".join(lines) + f"""

**Agreement**: at the last moment of training the ratio is off gamma by {100 * min(misses):.0f}% of it at the least and
by {100 * max(misses):.0f}% at the most of single runs.
MS-SSIM at the smallest gamma against the largest: {compared(clean, diverse)}.

One minibatch's ratio strays. By the logs of these runs (commit bce9f14) its mean from 20,000 images on is 0.77 and
0.80 for gamma = 0.3, 0.71 and 0.68 for 0.5, 0.75 and 0.76 for 0.75, 1.00 and 1.03 for 1. So gamma is held where it
can be: in so short a training fakes are never reconstructed so well that 0.3 or 0.5 were within reach, k stays at 0
there, and the generator draws one image.
"""


def likelihood(frame: pd.DataFrame) -> str:
    """Bits per dimension beside SWD as training goes on."""
    lines, changes, last = [], [], {}
    for family, runs in trained(frame).groupby("family"):
        curve = []
        for kimg, rows in runs.groupby(runs["kimg"].round()):
            bits = rows.loc[(rows["metric"] == "bits_per_dim") & (rows["level"] == ""), "value"]
            swd = rows.loc[(rows["metric"] == "swd") & (rows["level"] == "avg"), "value"]
            lines.append(f"| {family} | {kimg:g} | {each(bits, 4)} | {each(swd)} |")
            curve.append((bits.mean(), swd.mean()))
        (first_bits, first_swd), last[family] = curve[0], curve[-1]
        changes.append(f"{family}'s bits go from {first_bits:.3f} to {last[family][0]:.3f} and its SWD from "
                       f"{first_swd:.0f} to {last[family][1]:.0f}; at the end its seeds differ by "
                       f"{bits.max() - bits.min():.3f} and {swd.max() - swd.min():.0f}")
    alike = sorted(last, key=lambda name: last[name][0]) == sorted(last, key=lambda name: last[name][1])
    return """## Does likelihood say the same as samples?

**Published** (Theis et al. 2016, arXiv 1511.01844): likelihood and the look of samples are largely independent.

**Here**: bits per dimension on held-out images (lower is better; an upper bound for the VAE) and SWD, means over seeds
(single seeds). PixelCNN's laptop preset knows 8 grey levels, so 5 of its bits say where in its level a pixel lies.

| family | kimg | bits per dimension | SWD |
|---|---:|---:|---:|
""" + "\n".join(lines) + f"""

**Agreement**: the two order the families {'alike' if alike else 'oppositely, as published'}, by their last means. From
the first evaluation to the last:

* """ + "\n* ".join(changes) + """

A smaller PixelCNN without an average of its weights had 5.586 bits and an SWD of 134 (105, 162) after as many images
(`results/likelihood.csv` at commit 9e58c6f): 0.03 bits more, and behind the VAE by SWD.
"""


def pggan_parts(frame: pd.DataFrame) -> str:
    """SWD and MS-SSIM of PGGAN without each of its parts, against the whole."""
    last, lines = final(frame), []
    last = last.assign(variant=[without(s) for s in last["settings"]])

    def values_of(metric: str, level: str) -> dict[str, pd.Series]:
        chosen = last[(last["metric"] == metric) & (last["level"] == level)]
        return {str(variant): rows["value"] for variant, rows in chosen.groupby("variant")}

    swd, ssim = values_of("swd", "avg"), values_of("ms_ssim", "")
    for variant, values in swd.items():
        against = "" if variant == WHOLE else compared(values, swd[WHOLE])
        lines.append(f"| {variant} | {each(values)} | {each(ssim[variant])} | {against} |")
    more = [variant for variant, values in swd.items() if values.mean() > swd[WHOLE].mean()]
    return """## PGGAN: does each part of table 1 help?

**Published** (Karras et al. 2018, table 1, CelebA at 128 px, 10 million images a row): growing, the minibatch's
standard deviation, the equalised learning rate and pixel norm each lower SWD; minibatch discrimination in the place of
the standard deviation does not help.

**Here**: the laptop networks with one part left out, at their end; mean over seeds (single seeds). "As published" is a
larger SWD than that of the whole.

| PGGAN | SWD | MS-SSIM of pairs | SWD against the whole |
|---|---:|---:|---|
""" + "\n".join(lines) + f"""

**Agreement**: of {len(swd) - 1} changes, published as no gain or a loss, {len(more)} raise SWD: {'; '.join(more)}.
"""


WHOLE = "the whole"


def without(settings: str) -> str:
    """The part that a run of `pggan-table1-32` leaves out, by its settings."""
    parts = settings.split()
    off = [name for name in ("growing", "equalized", "pixel_norm", "minibatch_stddev")
           if f"{name}={setting_text(False)}" in parts]
    swapped = f"minibatch_discrimination={setting_text(True)}" in parts
    return (f"without {off[0]}" if off else WHOLE) + (", with minibatch_discrimination" if swapped else "")


def stylegan_steps(frame: pd.DataFrame) -> str:
    """SWD and path lengths of StyleGAN's configurations, each beside the one before it."""
    last = final(frame)
    last = last.assign(step=[configuration(s) for s in last["settings"]])
    lines: list[str] = []
    before: pd.Series | None = None
    fell: list[str] = []
    paths: dict[str, pd.Series] = {}
    for step, rows in last.groupby("step"):
        values = {column: rows.loc[(rows["metric"] == column[0]) & (rows["level"] == column[1]), "value"]
                  for column in (("swd", "avg"), ("ppl", "z_full"), ("ppl", "w_full"))}
        swd = values["swd", "avg"]
        cells = [each(found) if len(found) else "" for found in values.values()]
        lines.append(f"| {step} | {' | '.join(cells)} | {compared(before, swd) if before is not None else ''} |")
        if before is not None and swd.mean() < before.mean():
            fell.append(str(step))
        before, paths[str(step)] = swd, values["ppl", "w_full"]
    return """## StyleGAN: does each step from A to F help?

**Published** (Karras et al. 2019, table 1, FID on FFHQ at 1,024 px): 8.04 for PGGAN (A), 5.25 with tuning (B), 4.85
with mapping network and styles (C), 4.88 with a learned constant (D), 4.42 with noise (E), 4.40 with mixing (F): all
but the constant lower it. Noise shortens paths in w (table 3: D 446, E 201), and mixing lengthens them a little (F
234).

**Here**: laptop networks, mean over seeds (single seeds); path lengths over 512 pairs. "As published" is a lower SWD
than one step before; for D the paper saw none.

| configuration | SWD | path length in z | in w | SWD one step before and here |
|---|---:|---:|---:|---|
""" + "\n".join(lines) + f"""

**Agreement**: SWD falls at {" and ".join(fell) or "no step"} of five steps, published at four (B, C, E, F). Path length
in w without noise (D) and with it (E): {compared(paths["D"], paths["E"])}.
"""


def configuration(settings: str) -> str:
    """The row of StyleGAN's table 1, by the settings of a run of `stylegan-table1-32`."""
    parts = settings.split()
    for row, told in (("A", f"smooth={setting_text(False)}"), ("B", f"styles={setting_text(False)}"),
                      ("C", f"constant_input={setting_text(False)}"), ("D", f"noise={setting_text(False)}"),
                      ("E", f"mixing={setting_text(0.0)}")):
        if told in parts:
            return row
    return "F"


def each(values: pd.Series, digits: int = 3) -> str:
    """The mean and the single values; a value that is alone by itself."""
    if len(values) == 1:
        return f"{values.iloc[0]:.{digits}g}"
    return f"{values.mean():.{digits}g} ({', '.join(f'{v:.{digits}g}' for v in values)})"


def compared(expected_more: pd.Series, other: pd.Series) -> str:
    """Whether a published "more" is seen: both means, Welch's t test, and what follows."""
    means = f"{expected_more.mean():.4g} against {other.mean():.4g}"
    if min(len(expected_more), len(other)) < 2:
        return f"{means}: single seeds allow no test"
    # from the moments: seeds that agree to the last digit are no reason for a warning
    moments = [moment for values in (expected_more, other) for moment in (values.mean(), values.std(), len(values))]
    p = float(ttest_ind_from_stats(*moments, equal_var=False).pvalue)
    more = expected_more.mean() > other.mean()
    verdict = "as published" if more else "the other way round than published"
    if not p < 0.05:
        verdict = "not distinguishable with these seeds"
    return f"{means}, p = {p:.2g} (Welch's t test): {verdict}"


def trained(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of training runs, without the reference rows."""
    return frame[frame["origin"] != "reference"]


def final(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last evaluation of each run."""
    runs = trained(frame)
    return runs[runs["kimg"] == runs.groupby("run")["kimg"].transform("max")]


def field(settings: str, name: str) -> str:
    """One setting out of a row's settings text, "a=1 b=2"."""
    return dict(part.split("=", 1) for part in settings.split() if "=" in part)[name]


if __name__ == "__main__":
    main()
