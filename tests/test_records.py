"""The results table: fixed schema, full precision, safe under several writers and after a kill."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ganbench import records
from ganbench.errors import UserError
from ganbench.runs.scoring import plan_columns

ROW = {"run": "0001-a", "origin": "ganbench", "family": "a", "dataset": "digits", "side": 32, "kimg": 1.0,
       "metric": "swd", "level": "avg", "value": 0.1, "protocol": "p", "seed": 0, "eval_seed": 0, "status": "ok"}


def _append_many(path: Path, writer: int, count: int) -> None:
    for step in range(count):
        records.append(path, [ROW | {"run": f"w{writer}", "kimg": float(step), "level": level, "note": "x" * 300}
                              for level in ("32", "16")])


def test_header_is_the_schema_and_a_new_metric_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    assert records.append(path, [ROW]) == 1
    before = path.read_text().splitlines()[0]
    assert records.append(path, [ROW | {"metric": "brand_new"}]) == 1
    lines = path.read_text().splitlines()
    assert lines[0] == before == ",".join(records.COLUMNS)
    assert len(lines) == 3


@pytest.mark.parametrize("value", [0.1, 1 / 3, math.pi * 1e-300, 2.0 ** 0.5 * 1e17, 123456789.123456789])
def test_floats_come_back_bit_for_bit(tmp_path: Path, value: float) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW | {"value": value}])
    assert records.load_results(path)["value"].iloc[0] == value


def test_tensor_like_and_numpy_floats_are_written_as_plain_numbers(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    path = tmp_path / "r.csv"
    records.append(path, [ROW | {"value": np.float64(1 / 3), "n_real": np.int64(5), "git_dirty": np.bool_(True)}])
    row = records.load_results(path).iloc[0]
    assert row["value"] == 1 / 3 and row["n_real"] == 5 and bool(row["git_dirty"])
    assert "np." not in path.read_text()


def test_same_key_is_added_once(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    assert records.append(path, [ROW, ROW]) == 1
    # a resumed run says it again
    assert records.append(path, [ROW | {"value": 0.1 * (1 + 1e-9), "date": "later"}]) == 0
    assert records.append(path, [ROW | {"eval_seed": 1}]) == 1
    assert records.load_results(path)["value"].tolist() == [0.1, 0.1]


def test_same_key_with_another_value_is_added_and_both_are_named(tmp_path: Path) -> None:
    path, notes = tmp_path / "r.csv", []
    records.append(path, [ROW | {"fake_hash": "a"}], warn=notes.append)
    assert records.append(path, [ROW | {"fake_hash": "a", "value": 9.0}], warn=notes.append) == 1
    assert len(notes) == 1 and "was 0.1 and is now 9.0" in notes[0] and "the newer counts" in notes[0]
    assert records.append(path, [ROW | {"fake_hash": "a", "value": 9.0}], warn=notes.append) == 0 and len(notes) == 1
    with pytest.warns(UserWarning, match=r"was 9\.0 and is now 8\.0"):
        records.append(path, [ROW | {"fake_hash": "a", "value": 8.0}])
    assert records.load_results(path)["value"].tolist() == [0.1, 9.0, 8.0]


@pytest.mark.parametrize("column", ["data_hash", "fake_hash", "source", "side", "channels", "crop", "split", "n_real",
                                    "n_fake", "protocol"])
def test_other_inputs_are_another_row(tmp_path: Path, column: str) -> None:
    path, notes = tmp_path / "r.csv", []
    row = ROW | {"data_hash": "d", "fake_hash": "f", "source": "/a", "side": 32, "channels": 3, "crop": "c",
                 "split": "train", "n_real": 9, "n_fake": 9}
    other = 64 if isinstance(row.get(column), int) else "other"
    assert records.append(path, [row, row | {column: other}, row], warn=notes.append) == 2
    assert notes == []


def test_a_row_from_before_there_was_a_hash_of_what_was_scored_stands_for_any(tmp_path: Path) -> None:
    path, notes = tmp_path / "r.csv", []
    records.append(path, [ROW])
    assert records.append(path, [ROW | {"fake_hash": "f"}], warn=notes.append) == 0
    assert records.append(path, [ROW | {"fake_hash": "f", "value": 7.0}], warn=notes.append) == 1
    assert "was 0.1" in notes[0]


def test_two_processes_append_at_once_without_losing_or_tearing_a_line(tmp_path: Path) -> None:
    path, count = tmp_path / "r.csv", 40
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, writer, count)) for writer in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    frame = records.load_results(path)
    expected = {(f"w{w}", float(k), level) for w in (1, 2) for k in range(count) for level in ("32", "16")}
    assert len(frame) == len(expected)
    assert set(zip(frame["run"], frame["kimg"], frame["level"])) == expected


def test_a_killed_writer_leaves_a_file_that_the_next_one_repairs(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    process = multiprocessing.get_context("fork").Process(target=_append_many, args=(path, 1, 10_000))
    process.start()
    while not path.exists() or path.stat().st_size < 20_000:
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = len(records.load_results(path))
    assert records.append(path, [ROW]) == 1  # the lock died with its owner
    assert len(records.load_results(path)) == before + 1


@pytest.mark.parametrize("cut", [3, 40, 60])
def test_half_a_line_is_removed_by_the_next_append_and_left_out_by_readers(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW, ROW | {"level": "32", "note": "two × two"}])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.warns(UserWarning, match="half a line"):
        assert len(records.load_results(path)) == 1
    assert records.append(path, [ROW | {"level": "32", "note": "two × two"}]) == 1
    assert path.read_bytes() == whole


def test_a_cut_inside_a_character_of_several_bytes_is_repaired_too(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW | {"note": "×"}])
    raw = path.read_bytes()
    path.write_bytes(raw + raw[raw.index(b"0001-a"):raw.index("×".encode()) + 1])
    assert records.append(path, [ROW | {"level": "32"}]) == 1
    assert records.load_results(path)["level"].tolist() == ["avg", "32"]


def test_half_a_header_counts_as_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("run,origin,fam")
    assert records.append(path, [ROW]) == 1
    assert len(records.load_results(path)) == 1


def test_a_complete_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # an editor did this
    records.append(path, [ROW | {"level": "32"}])
    assert records.load_results(path)["level"].tolist() == ["avg", "32"]


def test_a_file_of_another_schema_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    for content in ("a,b,c\n1,2,3\n", "a,b,c\n1,2"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"other\.csv has another schema.*lacks run.*has a, b, c") as caught:
            records.append(path, [ROW])
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match="another schema"):
            records.load_results(path)
        assert path.read_text() == content


def test_a_row_of_another_schema_version_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW, ROW | {"level": "32"}])
    text = path.read_text()
    path.write_text(text[:-2] + "9\n")
    with pytest.raises(UserError, match=r"r\.csv line 3"):
        records.load_results(path)


# schema 1
FORMER = [c for c in records.COLUMNS if c not in {name for added in records.ADDED.values() for name in added}]


def _former(path: Path, rows: int = 2) -> str:
    """A file as schema 1 wrote it."""
    value = {str(k): str(v) for k, v in ROW.items()} | {"schema": "1", "params_g": "7"}
    lines = [",".join(value.get(c, "") if c != "level" else str(2 ** i) for c in FORMER) for i in range(rows)]
    text = "\n".join([",".join(FORMER), *lines, ""])
    path.write_text(text)
    return text


def test_a_file_of_the_former_schema_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    text = _former(path)
    frame = records.load_results(path)
    assert list(frame.columns) == list(records.COLUMNS) and frame["flops_g"].isna().all()
    assert frame["params_g"].tolist() == [7, 7] and frame["value"].tolist() == [0.1, 0.1]
    assert records.append(path, []) == 0 and path.read_text() == text  # nothing to say, nothing changed
    assert records.append(path, [ROW | {"level": "1", "flops_g": 5}, ROW | {"flops_g": 5, "flops_train": 6}]) == 1
    again = records.load_results(path)
    assert again["flops_g"].tolist()[:-1] == [pd.NA, pd.NA] and again["flops_train"].iloc[-1] == 6
    pd.testing.assert_frame_equal(again.iloc[:2], frame)
    assert path.read_text().splitlines()[0] == ",".join(records.COLUMNS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.csv"]


def test_half_a_line_of_the_former_schema_is_left_out_too(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    text = _former(path)
    path.write_text(text[:-5])
    with pytest.warns(UserWarning, match="half a line"):
        assert len(records.load_results(path)) == 1
    path.write_text(text[:-1])  # whole but for its newline
    assert len(records.load_results(path)) == 2


def test_writers_that_meet_at_a_file_of_the_former_schema_lose_no_row(tmp_path: Path) -> None:
    path, count = tmp_path / "r.csv", 20
    _former(path)
    writers = [multiprocessing.get_context("fork").Process(target=_append_many, args=(path, w, count))
               for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert len(records.load_results(path)) == 2 + 4 * count * 2


@pytest.mark.parametrize(("edit", "says"), [
    (lambda t: t.replace("0.1,", "0;1,", 1), r"line 2: '0;1' is no value for the column value"),
    (lambda t: t.replace(",32,", ",32.5,", 1), r"line 2: '32\.5' is no value for the column side"),
    (lambda t: t.replace(",4\n", ",4,more\n", 1), r"line 2: 48 fields where the header has 47"),
    (lambda t: t[:-2].rsplit("\n", 1)[0] + "\n0001,half\n", r"line 3: 2 fields where the header has 47"),
    (lambda t: t.replace("ganbench", '"ganbench', 1), r"line \d+: .*correct or remove"),
    (lambda t: t.replace("family,", "", 1), r"lacks family"),
    (lambda t: t.replace("run,origin", "origin,run", 1), r"columns in another order"),
    (lambda t: t.replace("dataset,", "dataset,colour,", 1), r"has colour"),
    (lambda t: "", r"is empty"),
])
def test_what_a_hand_broke_is_named_with_file_and_line(tmp_path: Path, edit: Callable[[str], str], says: str) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW, ROW | {"level": "32"}])
    path.write_text(edit(path.read_text()))
    with pytest.raises(UserError, match=says) as caught:
        records.load_results(path)
    assert "\n" not in str(caught.value) and "r.csv" in str(caught.value)


def test_what_a_spreadsheet_saves_is_read(tmp_path: Path) -> None:
    """A byte order mark, quotes around everything, lines ended its way, an empty line."""
    path = tmp_path / "r.csv"
    records.append(path, [ROW, ROW | {"level": "32"}])
    lines = path.read_text().splitlines()
    quoted = "\r\n".join([",".join(f'"{field}"' for field in line.split(",")) for line in lines] + ["", ""])
    path.write_bytes(b"\xef\xbb\xbf" + quoted.encode())
    assert records.load_results(tmp_path)["value"].tolist() == [0.1, 0.1]
    assert records.append(path, [ROW, ROW | {"level": "16"}]) == 1
    assert records.load_results(path)["level"].tolist() == ["avg", "32", "16"]


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW, ROW | {"note": "é", "level": "32"}])
    path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.raises(UserError, match=r"r\.csv line 3 is not UTF-8 text"):
        records.load_results(path)


def test_binary_files_and_missing_files_get_one_line(tmp_path: Path) -> None:
    binary = tmp_path / "image.csv"
    binary.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        records.load_results(binary)
    with pytest.raises(UserError, match="No such file"):
        records.load_results(tmp_path / "missing.csv")
    with pytest.raises(UserError, match="no results in"):
        records.load_results(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write results"):
        records.append(tmp_path / "r.csv", [ROW])


def test_a_path_through_a_file_is_unwritable_for_everybody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write results"):
        records.append(tmp_path / "file" / "r.csv", [ROW])


def test_unknown_columns_are_a_defect_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such result column: colour"):
        records.append(tmp_path / "r.csv", [ROW | {"colour": "red"}])
    assert not (tmp_path / "r.csv").exists()


def test_a_folder_gives_all_its_results_files_and_passes_over_others(tmp_path: Path) -> None:
    records.append(tmp_path / "a.csv", [ROW])
    records.append(tmp_path / "b.csv", [ROW, ROW | {"run": "0002-b"}])
    (tmp_path / "c.csv").write_text("something,else\n1,2\n")
    frame = records.load_results(tmp_path)
    assert frame["run"].tolist() == ["0001-a", "0002-b"]  # the row that stands in both counts once
    assert str(frame["side"].dtype) == "Int64" and pd.api.types.is_float_dtype(frame["value"])


def test_line_breaks_in_a_text_do_not_break_the_table(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW | {"reason": "line one\nline two\r\nline three, with a comma and a \"quote\""}])
    assert len(path.read_text().splitlines()) == 2
    assert "line two" in records.load_results(path)["reason"].iloc[0]


def test_a_run_says_what_it_was_given_beside_its_preset_and_what_ended_it() -> None:
    config = {"options": {"overrides": {"rate": 0.001, "beta1": 0.5, "widths": [64, 128], "own": True}},
              "training": {"kimg": None, "steps": None, "seconds": 600.0}}
    assert plan_columns(config) == {"settings": "beta1=0.5 own=true rate=0.001 widths=64,128",
                                    "budget": "seconds 600"}
    assert plan_columns({"options": {}, "training": {"kimg": 60.0}}) == {"settings": "", "budget": "kimg 60"}
    assert plan_columns({}) == {"settings": "", "budget": ""}  # a run of an early version


def test_values_are_read_to_the_last_bit_and_what_is_no_number_is_read_as_such(tmp_path: Path,
                                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("pd.to_numeric is not exact in every version of pandas")

    monkeypatch.setattr(pd, "to_numeric", forbidden)
    values = [123456789.12345679, 0.1 + 0.2, 1e-300, float("nan"), float("inf")]
    records.append(tmp_path / "r.csv", [ROW | {"value": v, "kimg": float(i), "flops_g": 2 ** 60 + 1}
                                        for i, v in enumerate(values)])
    frame = records.load_results(tmp_path / "r.csv")
    assert [repr(v) for v in frame["value"]] == [repr(v) for v in values]
    assert frame["flops_g"].tolist() == [2 ** 60 + 1] * 5 and frame["value"].dtype == float


@pytest.mark.parametrize("call, says", [
    ("append('/dev/full', [{'run': 'a', 'metric': 'swd', 'value': 1.0}])", "cannot write results to /dev/full"),
    ("read('/dev/zero')", "/dev/zero")])
def test_a_device_is_not_read_without_end(call, says):
    """In a process of its own with little memory, for the wrong way takes all there is."""
    code = ("import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
            "from ganbench import records\n"
            f"try: records.{call}\nexcept records.UserError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert says in done.stdout and done.stderr == ""
