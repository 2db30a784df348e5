"""Tables: text to vectors and back, and files that are refused."""

import csv
import json
import math
import random
import re
import sys
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from pyarrow import parquet

from scorefield import cli, load, save
from scorefield.data import Table, all_samples, load_data
from scorefield.data import csv_table as module
from scorefield.data import parquet as parquet_module
from scorefield.evaluate import open_run
from scorefield.runs import resume, start
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS

HEADER = "height,children,region,smoker\n"


def _text(n=60):
    chance, regions = random.Random(0), ["north", "south", '"east, far"']
    rows = [
        f"{chance.gauss(170, 9):.1f},{chance.randrange(-3, 40)},"
        f"{chance.choice(regions)},{chance.randrange(2)}\n"
        for _ in range(n)
    ]
    return HEADER + "".join(rows)


def _file(directory, text, suffix=".csv"):
    path = directory / "people.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if suffix == ".parquet":
        kinds = {"height": "float32", "children": "Int64", "region": "category"}
        frame = pandas.read_csv(path, dtype=kinds)
        frame.to_parquet(path.with_suffix(suffix), row_group_size=50)
    return path.with_suffix(suffix)


def _rows(text, delimiter=","):
    return [tuple(row) for row in csv.reader(text.splitlines(), delimiter=delimiter)]


def test_rows_are_decoded_as_they_were_written(tmp_path):
    data, rows = load_data(_file(tmp_path, _text())), _rows(_text())
    assert [c.kind for c in data.table.columns] == ["real", "integer", "category", "category"]
    assert data.table.size == 1 + 1 + 3 + 2
    assert len(data.test) == 6
    train = [*data.table.decode(all_samples(data.train))]
    assert sorted(train) == sorted(set(train) & set(rows[1:]))
    assert _rows(data.table.text(all_samples(data.train))) == [rows[0], *train]


@pytest.mark.parametrize("name", ["wine", "breast-cancer"])
def test_bundled_tables_are_scikit_learns_with_a_fifth_of_each_class_held_out(name):
    from sklearn import datasets

    bundle = getattr(datasets, f"load_{name.replace('-', '_')}")()
    data = load_data(name)
    names = bundle.target_names[bundle.target]
    real = {tuple(row): name for row, name in zip(bundle.data, names, strict=True)}
    for row in data.table.decode(all_samples(data.train)):
        assert real[tuple(float(text) for text in row[:-1])] == row[-1]
    held_out = [row[-1] for row in data.table.decode(all_samples(data.test))]
    for label, count in zip(*np.unique(bundle.target, return_counts=True), strict=True):
        assert abs(held_out.count(bundle.target_names[label]) - count / 5) <= 1


def test_parquet_gives_the_vectors_of_the_csv_file_of_the_same_table(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module, "ROWS_AT_ONCE", 7)
    text = _text() + "170.0,NA,north,1\n"
    csv_data, data = (
        load_data(_file(tmp_path, text, s), missing="drop") for s in (".csv", ".parquet")
    )
    assert (data.table, data.notices) == (csv_data.table, csv_data.notices)
    for part, csv_part in ((data.train, csv_data.train), (data.test, csv_data.test)):
        assert torch.equal(all_samples(part), all_samples(csv_part))


def test_vectors_are_standardised_over_the_rows_to_train_on(tmp_path):
    data = load_data(_file(tmp_path, _text(1000)))
    x, table = all_samples(data.train).double(), data.table
    # dequantised: the variance of uniform integers of 43 values, whose cells are filled evenly; a
    # uniform number's deviation has the relative standard error √((1.8 − 1)/4n)
    error, scale = math.sqrt(0.2 / len(x)), table.columns[1].scale
    assert scale == pytest.approx(43 / math.sqrt(12), rel=2 * error)
    part = (x[:, 1] * scale + table.columns[1].mean[0] + 0.5) % 1
    assert part.std().item() == pytest.approx(1 / math.sqrt(12), rel=3 * error)
    mean, variance = x.mean(0), x.var(0, correction=0)
    assert mean[1].abs() < 4 / math.sqrt(12 * len(x)) / scale  # standard errors of what fills cells
    # the rest is exact; the variance of a category's numbers is p(1 − p)/s², 1 on average
    exact = [*mean[[0, 2, 3, 4, 5, 6]], variance[0] - 1, variance[2:5].mean() - 1]
    assert max(map(abs, exact)) < 2 * x.abs().max() * 2**-24  # float32, squared


def test_samples_are_clipped_to_the_range_and_rounded(tmp_path):
    table = load_data(_file(tmp_path, _text())).table
    low, high = table.decode(torch.tensor([-9.0, 9.0])[:, None].expand(2, 7))
    heights, children = zip(*(map(float, row[:2]) for row in _rows(_text())[1:]), strict=True)
    assert min(heights) <= float(low[0]) <= float(high[0]) <= max(heights)
    assert (int(low[1]), int(high[1])) == table.columns[1].range
    assert max(children) >= int(high[1])
    for x in (torch.full((1, 7), math.nan), torch.zeros(1, 6)):
        with pytest.raises(ValueError, match="is not finite, or not of 7 numbers"):
            table.decode(x)


@pytest.mark.parametrize(
    ("mark", "start", "end"), [(";", "", "\r\n"), ("\t", "\ufeff", "\n"), (",", "\ufeff", "\r")]
)
def test_delimiters_line_ends_and_byte_order_marks_are_recognised(mark, start, end, tmp_path):
    text = _text().replace('"east, far"', "east").replace(",", mark).replace("\n", end)
    data = load_data(_file(tmp_path, start + text))
    assert data.table.delimiter == mark
    assert [c.name for c in data.table.columns] == HEADER.strip().split(",")
    assert data.table.text(all_samples(data.train)).startswith(HEADER.replace(",", mark))


@pytest.mark.parametrize(("suffix", "place"), [(".csv", "line 62"), (".parquet", "row 60")])
def test_types_drop_and_missing_overrule_the_guess(suffix, place, tmp_path):
    path = _file(tmp_path, _text(), suffix)
    table = load_data(path, types={"smoker": "integer", "children": "real"}, drop=["region"]).table
    assert [c.kind for c in table.columns] == ["real", "real", "integer"]
    for options, message in (
        ({"drop": ["hight"]}, "did you mean height"),
        ({"types": {"region": "real"}}, r"is not a number"),
        ({"types": {"height": "integer"}}, "is not a whole number"),
        ({"types": {"height": "text"}}, "give names, each with real, integer, category or null"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data(path, **options)
    path = _file(tmp_path, _text() + "170.0,NA,north,1\n", suffix)
    with pytest.raises(ValueError, match=rf"{place}: no value for 'children'.*missing=drop"):
        load_data(path)
    data = load_data(path, missing="drop")
    assert len(data.train) + len(data.test) == 60
    assert data.notices[-1] == "left out 1 of 61 rows, which lack a value"
    (tmp_path / "table.json").write_text(data.table.as_json())
    assert [c.missing for c in Table.read(tmp_path).columns] == [0, 1 / 61, 0, 0]


@pytest.mark.parametrize("number", ["${},000.5", "{} €", "{}%", "{},5", "{} 000"])
def test_a_category_that_looks_like_numbers_is_announced(number, tmp_path):
    cells = [number.format(i % 9 + 1) for i in range(200)]
    path = _file(tmp_path, "id;v\n" + "".join(f"x{i % 9 + 1};{c}\n" for i, c in enumerate(cells)))
    _, remark = load_data(path).notices  # the columns, and none on 'id'
    start = f"'v' is taken as a category, but '{cells[0]}' looks like a number: "
    assert remark.startswith(start)
    assert len(load_data(path, types={"v": "category"}).notices) == 1
    path.write_text("u;v;w\n" + "".join(f"{i % 3};{c};{c}\n" for i, c in enumerate(cells)))
    _, remark = load_data(path, types={"u": "integer"}).notices
    assert remark.startswith("'v' is taken as a category")
    assert "; 'w' is taken" in remark
    assert "types={'u': 'integer', 'v': 'category', 'w': 'category'}" in remark
    assert remark.count("types=") == 2  # in Python and on the command line
    path.write_text("v;w\n" + "".join(f"{number.format(i)};{i % 2}\n" for i in range(200)))
    with pytest.raises(ValueError, match=r"more than 100 different texts.*looks like a number"):
        load_data(path)


def test_the_columns_are_printed_before_training(tmp_path, monkeypatch, capsys):
    _file(tmp_path, _text() + "170.0,NA,north,1\n")
    monkeypatch.chdir(tmp_path)
    options = ["--data.options.missing=drop", "--training.steps=1", "--network.width=8"]
    assert cli.main(["train", "--data", "people.csv", "--out", "run", *options]) == 0
    _file(tmp_path, _text())
    assert cli.main(["suggest", "people.csv"]) == 0
    trained, suggested = capsys.readouterr().out.split("next: ")
    assert trained.index("height ") < trained.index("left out 1 of 61 rows") < trained.index("step")
    for text, missing in ((trained, ", missing in 1.64 % of the rows"), (suggested, "")):
        assert re.search(r"^  height    real      1\d\d\.?\d? to 1\d\d\.?\d?$", text, re.M)
        assert re.search(rf"^  children  integer   -[123] to \d\d{missing}$", text, re.M)
        assert "\n  region    category  3 values: 'east, far', 'north', 'south'\n" in text


def test_a_constant_column_is_decoded_and_takes_no_component(tmp_path):
    text = _text().replace("\n", ",7.50\n").replace("7.50", "unit", 1)
    table = load_data(_file(tmp_path, text)).table
    assert table.size == 7
    assert {row[-1] for row in table.decode(torch.randn(9, 7))} == {"7.50"}


BAD = {
    "": "no header",
    "a,b\n": "0 rows",
    "1,2\n3,4\n5,6\n": "begins with numbers",
    "a,a\n1,2\n3,4\n": "two columns that are called 'a'",
    ",a\n1,2\n3,4\n": "no name of column 1",
    "a,b\n1,2\n3\n": "line 3: 1 fields, but the header has 2",
    'a,b\n1,"2\n3,4\n': "after line 3: unexpected end",
    "a,b\n1,2\n3,-1e101\n" + "4,5.5\n" * 30: "line 3: -1e101 for 'b' is beyond 1e.100",
    "a,b\n" + "1,2.5\n2,3\n" * 11 + "2,3\n1,1e60\n": "1e.60 for 'b' is too far",
    "a,b\n" + "".join(f"{i},{i}.5\n" for i in range(50)) + "1,2x\n": "line 52: '2x'",
    "a\n" + "".join(f"x{i}\n" for i in range(200)): "more than 100 different texts",
    "a,b\n1,2\n1,2\n": "one value only",
    "a,b\n1,\x002\n3,4\n": "code 0",
    b"a,b\n1,\xe9t\xe9\n2,x\n": "UTF-8",
    "a,b\n" + "1," * 600_000: "a line of more than 1,048,576 characters",
    'a,b\n1,"' + "x\n" * 600_000: "line",
    ",".join(f"c{i}" for i in range(3000)) + "\n": "3000 columns",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_an_invalid_table_is_refused_with_the_reason(text, tmp_path):
    with pytest.raises(ValueError, match=BAD[text]):
        load_data(_file(tmp_path, text))


PARQUET = {
    "unnamed": ({"__index_level_0__": [0, 1], "a": [1, 2]}, "has no name of column 1"),
    "code 0": ({"a": ["x\0", "y"]}, "code 0"),
    "long": ({"a": ["x" * 200_000, "y"]}, "a cell of more than 131,072 characters"),
    "many": ({"a": pyarrow.nulls(2**25 + 1)}, "33,554,433 cells"),
    "large": ({"a": np.zeros(2**23)}, r"unpacks to 67,\d+,\d+ bytes"),
    "constant": ({"a": [1, 1]}, "one value only"),
}


@pytest.mark.parametrize("name", PARQUET)
def test_an_invalid_parquet_file_is_refused_with_the_reason(name, tmp_path):
    columns, message = PARQUET[name]
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet", use_dictionary=False)
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_data(tmp_path / "x.parquet")
    assert "x.parquet" in str(error.value)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = _file(tmp_path, _text(), ".parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        ImportError, match=r"people\.parquet needs pyarrow: pip install 'scorefield.tables.'"
    ):
        load_data(path)


def test_sizes_are_checked_before_memory_is_allocated(tmp_path, monkeypatch):
    path = _file(tmp_path, _text())
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match="bytes, and a table at most 100"):
        load_data(path)
    monkeypatch.undo()
    monkeypatch.setattr(np, "fromiter", lambda *args: pytest.fail("allocated"))
    with pytest.raises(ValueError, match="60 rows of 7 numbers take 6,720 bytes"):
        load_data(path, memory=6719)


def test_samples_of_a_run_are_written_as_csv_without_its_data(tmp_path, monkeypatch, error_of):
    path = _file(tmp_path, _text().replace(",", ";").replace('"east; far"', "east"))
    settings = [f"data.source={path}", "training.steps=2", "network.width=8"]
    list(start(override(PRESETS["table"], settings), tmp_path / "run"))
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    whole = path.read_text()
    path.write_text(whole.replace("1", "2"))
    for call in (resume, open_run):
        with pytest.raises(ValueError, match=r"people\.csv has changed"):
            call(moved)
    with pytest.raises(ValueError, match="not the table"):
        resume(moved, changed_data=True)
    path.write_text(whole)
    resume(moved)  # the refusals have changed nothing
    assert open_run(moved)[1].table == Table.read(moved)
    path.unlink()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sample", "moved", "-n", "20"]) == 0
    header, *rows = _rows(Path("samples.csv").read_text(), ";")
    assert ",".join(header) + "\n" == HEADER
    assert len(rows) == json.loads(Path("samples.csv.json").read_text())["n"] == 20
    for row in rows:  # the decimals of the data, and their ranges and categories
        assert re.fullmatch(r"1\d\d\.\d;(-[123]|[123]?\d);(north|south|east);[01]", ";".join(row))
    assert cli.main(["sample", "moved", "-n", "20", "--out", "x.npy"]) == 0
    x = torch.from_numpy(np.load("x.npy"))
    assert [*Table.read(moved).decode(x)] == rows
    Table.read("moved").to_csv(x, "again.csv")
    assert Path("again.csv").read_bytes() == Path("samples.csv").read_bytes()
    (moved / "table.json").unlink()
    assert "has no table.json" in error_of("sample", "moved", "--out", "x.csv")
    error = error_of("sample", "moved", "--given", "height=170")
    assert "height does not exist: there are none" in error


def test_rows_of_a_run_are_sampled_and_restored_given_some_cells(
    tmp_path, monkeypatch, capsys, error_of
):
    path = _file(tmp_path, _text())
    settings = [f"data.source={path}", "training.steps=2", "network.width=8"]
    list(start(override(PRESETS["table"], settings), tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    given = ["--given=region=east, far", "--given=children = +7"]
    assert cli.main(["sample", "run", *given, "-n=9", "--steps=4", "--out=1.csv"]) == 0
    _, *rows = _rows(Path("1.csv").read_text())
    assert [row[1:3] for row in rows] == [("+7", "east, far")] * 9
    Path("part.tsv").write_text("children\tregion\theight\n5\t?\t170.123\n\teast, far\t\n")
    size = ["--steps=4", "--particles=4", "--filters=2"]
    assert cli.main(["restore", "run", "part.tsv", "-n", "2", *size]) == 0
    assert "wrote 2 completions of each of 2 rows into restored\n" in capsys.readouterr().out
    for i in (1, 2):
        header, *rows = _rows(Path(f"restored/completion-{i}.csv").read_text())
        assert ",".join(header) + "\n" == HEADER
        assert (rows[0][:2], rows[1][2]) == (("170.123", "5"), "east, far")
        assert all(rows[0] + rows[1])
    Path("whole.csv").write_text(HEADER + "170.12,5,north,1\n")
    pandas.read_csv("whole.csv").to_parquet("whole.parquet")
    for name in ("whole.csv", "whole.parquet"):
        assert cli.main(["restore", "run", name, "-n", "1", "--out", "w", "--overwrite"]) == 0
        text = "wrote 1 completion of 1 row (1 without a missing cell) into w\n"
        assert text in capsys.readouterr().out
        assert Path("w/completion-1.csv").read_text() == Path("whole.csv").read_text()
    path.rename("moved.csv")
    held_out = ["restore", "run", "--overwrite", "--count=3", "-n1", *size]
    assert f"are gone: {path} does not have them" in error_of(*held_out)
    assert cli.main([*held_out, "--data=moved.csv"]) == 0
    capsys.readouterr()
    assert not Path("restored/completion-2.csv").exists()  # an older one
    _, *truth = _rows(Path("restored/truth.csv").read_text())
    _, *rows = _rows(Path("restored/completion-1.csv").read_text())
    assert len(rows) == 3
    assert [row[:2] for row in rows] == [row[:2] for row in truth]
    assert "gone.csv does not exist: " in error_of("restore", "run", "gone.csv", "--out", "g")
    Path("folder.csv").mkdir()
    error = error_of("restore", "run", "folder.csv", "--out", "g")
    assert "folder.csv is a directory: name a file in it" in error
    with pytest.warns(UserWarning, match="'children' is 99 in a row, outside of -3 to 39"):
        Table.read("run").encode([{"children": 99}])
    for text, message in (
        ("regiom=north", "the column or condition regiom does not exist: did you mean region?"),
        ("children", "give one value, as in children=VALUE"),
        ("region=nort", "'nort' is not a value of 'region': did you mean north?"),
        ("children=2.5", "give a whole number"),
        ("height=inf", "give a number"),
    ):
        assert message in error_of("sample", "run", "--given", text)
    bad = ["restore", "run", "bad.csv", "--out=b"]
    for text, message in (
        ("height,regiom\n1,2\n", "the column regiom does not exist: did you mean region?"),
        (HEADER, "bad.csv holds no rows below its header"),
        (HEADER + "170,5,nort,1\n", "line 2: 'nort' is not a value"),
        (HEADER + "170,5,1\n", "line 2: 3 fields, but the header has 4"),
    ):
        Path("bad.csv").write_text(text)
        assert message in error_of(*bad)
    for option in ("--task=deblur", "--label=all", "--guidance=2"):
        unused, name = "leave out " + option.partition("=")[0], option.partition("=")[0]
        assert f"bad.csv is a table: {unused}" in error_of(*bad, option)
        if name != "--task":
            error = error_of("sample", "run", "--given=region=north", option)
            assert f"learned samples by restoration: {unused}" in error
    model = load("run")
    model.tuned = True
    save(model, "run")
    # nothing is announced that will not be computed
    assert "the model is tuned to consistency" in error_of("restore", "run", "part.tsv", "--out=b")
    assert not Path("b").exists()


DAMAGE = {"scale": 0, "kind": "x", "mean": [], "decimals": -1, "new": 1, "categories": ["a"]}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_table_is_refused(name, tmp_path):
    table = json.loads(load_data("wine").table.as_json())
    table["columns"][3][name] = DAMAGE[name]
    (tmp_path / "table.json").write_text(json.dumps(table))
    with pytest.raises(ValueError, match="not the table of a run"):
        Table.read(tmp_path)
