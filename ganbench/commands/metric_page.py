"""A metric's page, made from what its class says of itself.

`ganbench show FID` prints it, the documentation holds it.
"""

import inspect
import shlex

from ganbench.commands import markdown_table
from ganbench.errors import UserError
from ganbench.metrics.metric import ImageMetric, MetricBase, find_metric
from ganbench.plugins import plugin_faults, plugin_label

BETTER = {True: "Higher is better.", False: "Lower is better.", None: "Neither higher nor lower is better by itself."}


def metric_page(name: str) -> str:
    """Title, source, what it says, definition, settings and protocol of a metric, as Markdown. Raises UserError."""
    metric = find_metric(name)
    about, arguments = _docstring(metric)
    known, typed = plugin_label(name), shlex.quote(name)
    lines = [f"# {metric.title or known}", "", f"`ganbench eval --metric {typed}`", ""]
    if metric.paper:
        lines += [f"**Source.** {metric.paper}", ""]
    lines += [metric.summary, "", BETTER[metric.higher_is_better] + " " + _inputs(metric), ""]
    lines += ["## Definition", "", about, ""]
    settings = _settings(metric)
    if settings:
        lines += ["## Settings", "", f"`--set {known}.SETTING=VALUE`, or `{known}={{...}}` in `ganbench.evaluate`. "
                  f"{arguments}".rstrip(), "", *markdown_table(("setting", "default"), settings), ""]
    if protocol := _protocol(metric):
        lines += ["## Protocol", "", "Values may be compared where all of this agrees; it is in every row:", "",
                  *(f"* `{part}`" for part in protocol.split(";")), ""]
    return "\n".join(lines).rstrip()


def _inputs(metric: type[MetricBase]) -> str:
    """What the metric looks at."""
    if not issubclass(metric, ImageMetric):
        return "Measures a trained model, not images: it needs a run."
    if not metric.needs_reals:
        return "Looks at the generated images alone."
    return "Compares generated images with real ones."


def _docstring(metric: type[MetricBase]) -> tuple[str, str]:
    """The class's docstring without its arguments, and these in one paragraph."""
    text, _, arguments = inspect.cleandoc(metric.__doc__ or "").partition("\nArgs:\n")
    arguments = " ".join(arguments.split())
    for shared in ("Others as of FeatureMetric.", "As of FeatureMetric."):  # their names say enough
        arguments = arguments.replace(shared, "").strip()
    return text.strip(), arguments


def _settings(metric: type[MetricBase]) -> list[tuple[str, str]]:
    """Names and defaults of what the constructor takes."""
    return [(f"`{name}`", "automatic" if default is None else f"`{default}`")
            for name, (_, default) in metric.settings_with_defaults().items()]


def _protocol(metric: type[MetricBase]) -> str:
    """The protocol with default settings; "" where it can be known only with weights or images at hand."""
    with plugin_faults(lambda: metric):
        try:
            return metric().protocol().replace("reals=0", "reals=N").replace("fakes=0", "fakes=N")
        except UserError:
            return ""
