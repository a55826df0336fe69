"""Published numbers: each was read again in a copy of its source, and says in which."""

from pathlib import Path

import pytest

from ganbench.records import load_results

ROWS = load_results(Path(__file__).resolve().parents[1] / "results" / "published.csv")


def test_every_published_row_says_where_it_was_read_again():
    assert (ROWS["origin"] == "published").all() and ROWS["run"].is_unique
    for column in ("value", "source", "verified_by", "protocol", "family", "dataset", "metric"):
        assert ROWS[column].notna().all() and (ROWS[column] != "").all(), column
    notes = " ".join(ROWS["note"].fillna(""))
    assert "recalled" not in notes and "second-hand" not in notes


@pytest.mark.parametrize(("family", "preset", "metric", "level", "value", "note"), [
    ("stylegan", "official model", "ppl", "w end", 197.2266, ""),  # the README of the official code
    ("stylegan2", "official model, config f", "fid", "", 2.84, "± 0.03"),
    ("wgan_gp", "resnet", "inception_score", "", 7.86, "± 0.07"),  # table 3 of the paper
    ("pggan", "mmgeneration", "swd", "avg", 8.15, ""),
    ("biggan", "dgm-eval's images", "fd_dinov2", "", 326.66, ""),  # table 11 of dgm-eval, as its picture shows it
    ("real images", "test", "fd_dinov2", "", 31.07, ""),
    ("pfgm++", "dgm-eval's images", "prdc", "coverage", 0.72, ""),
    ("stylegan2 + ada", "dgm-eval's images", "authenticity", "", 0.9322, ""),
    ("dcgan", "studiogan, at the end", "fid", "", 137.407, "last checkpoint of the same run, step 200,000")])
def test_numbers_stand_as_in_their_sources(family, preset, metric, level, value, note):
    rows = ROWS[(ROWS["family"] == family) & (ROWS["preset"] == preset) & (ROWS["metric"] == metric)
                & (ROWS["level"].fillna("") == level) & ROWS["dataset"].isin(["ffhq", "cifar10", "celeba"])]
    assert rows["value"].tolist()[:1] == [value] and rows["note"].fillna("").tolist()[0] == note
