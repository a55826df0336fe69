"""A configuration's hash: settings that came later leave it alone, and rows measured before still carry today's."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

import ganbench
from ganbench.family import FamilyConfig, configure, find_family, hashed_settings, setting
from ganbench.training.document import resolve
from ganbench.training.run_options import RunOptions

RESULTS = Path(__file__).parent.parent / "results"


class Old(FamilyConfig):
    width: int = setting(64, "maps")
    names: str = setting("a", "text")


class New(Old):
    depth: int = setting(2, "layers", later=True)


def test_a_later_setting_counts_only_where_it_is_not_at_its_default():
    expected = {"width": 64, "names": "a"}
    assert hashed_settings(New()) == hashed_settings(New(depth=2)) == hashed_settings(Old()) == expected
    assert hashed_settings(New(depth=3)) == {"width": 64, "names": "a", "depth": 3}
    assert hashed_settings(New(width=8)) == hashed_settings(Old(width=8)) != hashed_settings(Old())


def rows():
    table = pd.read_csv(RESULTS / "zoo-fashion-short.csv", dtype=str)
    trained = table[table["config_hash"].notna() & table["preset"].notna()]
    return trained.drop_duplicates("config_hash")[["family", "preset", "side", "data_hash", "precision", "config_hash"]]


@pytest.mark.parametrize("row", rows().to_dict("records"), ids=lambda row: row["family"])
def test_rows_of_the_committed_comparison_have_todays_hash(row):
    """Made of family, settings, images, side, mirroring (off for this data) and precision."""
    config, *_ = configure(find_family(row["family"]), row["preset"])
    decided = {"family": row["family"], "config": hashed_settings(config), "data": row["data_hash"],
               "side": int(row["side"]),
               "mirror": False, "precision": row["precision"]}
    assert hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16] == row["config_hash"]


def hash_of(family: str) -> str:
    return resolve(RunOptions(family, dataset="digits", preset="smoke", steps=1, metrics=[], results=None,
                              device="cpu")).document["config_hash"]


def test_code_of_ones_own_is_part_of_the_hash_and_its_comments_are_not(tmp_path):
    """A changed copy of a shipped family has its name in the results, and must not be averaged with it."""
    own, shipped = tmp_path / "dcgan.py", hash_of("dcgan")
    text = (Path(ganbench.__file__).parent / "models" / "dcgan.py").read_text(encoding="utf-8")
    hashes = []
    for more in ("", "# a comment\n", "CHANGED = True\n"):
        own.write_text(text + more, encoding="utf-8")
        hashes.append(hash_of(str(own)))
    assert hashes[0] == hashes[1] and len({shipped, *hashes}) == 3
