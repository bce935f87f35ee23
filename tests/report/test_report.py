"""The report, from run directories written here by hand: what it says, and that nothing breaks it."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from kcframe.errors import RunDirError
from kcframe.report.build import build_report, write_figures
from kcframe.report.figures import logarithmic, looks
from kcframe.report.record import read_record
from kcframe.report.table import results_tables
from kcframe.storage.layout import arm_folder
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

NASTY = ('<script>alert("1")</script>', "a & b's “$x_1$” \\ 漢字", "x" * 200)


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.parts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())


def write_run(
    folder, arms, verticals=("birds", "cars"), specialists=True, baseline=None, evaluations=3, samples=True
):
    """A run directory. arms: name -> mpvap (or None), every vertical's AP the same."""
    run_dir = RunDir(folder)
    taxonomy = Taxonomy.build({name: [f"{name} {i}" for i in range(3)] for name in verticals})

    def figures(ap):
        row = {"ap": ap, "routed_ap": ap, "top1": ap, "top5": ap, "routed_top1": ap, "images": 4 if ap else 0}
        whole = {"mpvap": ap, "top1": ap, "top5": ap, "routed_mpvap": ap, "routed_top1": ap}
        return {**whole, "per_vertical": dict.fromkeys(verticals, row)}

    results = {
        "name": "by hand",
        "seed": 7,
        "baseline": baseline,
        "arms": {
            name: {**figures(ap), "parameters": 1_500_000, "gap_closed": None, "steps": 6}
            for name, ap in arms.items()
        },
        "specialists": {**figures(90.0), "parameters": 9_000_000} if specialists else None,
        "teacher_images_per_image": 1.25,
    }
    for number, (name, ap) in enumerate(arms.items()):
        lines = []
        for step in range(1, 7):
            gamma = {"gamma": [3.0] * len(verticals), "floor": [0.1] * len(verticals)} if number else {}
            lines.append({"kind": "step", "step": step, "epoch": step / 2, "loss": 9.0 / step, **gamma})
        for epoch in range(1, evaluations + 1):
            found = {**figures(ap), "effective_rank": 5.0, "constant_units": 0.0}
            lines.append({"kind": "evaluation", "step": 2 * epoch, "epoch": epoch, **found})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        run_dir.write(f"{arm_folder(name)}/metrics.jsonl", text)
        size = len(verticals)
        confusion = [[10 if row == column else 0 for column in range(size)] for row in range(size)]
        if size > 1:
            confusion[0][1] = 30
        top = [{"class": taxonomy.classes[0], "probability": 0.75}]
        result = {
            **figures(ap),
            "effective_rank": 5.0,
            "constant_units": 0.0,
            "confusion": confusion,
            "samples": [{"image": 3, "top": top}] if samples else [],
        }
        run_dir.write_json(f"{arm_folder(name)}/result.json", result)
    if samples:
        buffer = io.BytesIO()
        Image.new("RGB", (300, 200), "red").save(buffer, "PNG")
        run_dir.write("samples/000.png", buffer.getvalue())
        listed = [{"image": 3, "name": "<b>3</b>.png", "labels": [taxonomy.classes[0]]}]
        run_dir.write_json("samples/samples.json", listed)
    run_dir.write_json("results.json", results)
    run_dir.write("taxonomy.json", taxonomy.to_json())
    run_dir.write("recipe.yaml", "name: by hand # <i>\n")
    run_dir.write_json("versions.json", {"python": "3", "kcframe": "1"})
    run_dir.write_json("data.json", {"images": {"train": 12345, "test": 5}, "broken": ["<u>"]})
    return run_dir


def page_of(run_dir) -> Page:
    build_report(run_dir)
    return Page(run_dir.read("report.html").decode())


def test_it_says_which_arm_is_best_and_by_how_much(tmp_path):
    run_dir = write_run(tmp_path, {"plain": 40.0, "ours": 65.0, "worse": 50.0}, baseline="plain")
    text = page_of(run_dir).text
    assert "ours is best of 3 arms: 65.0 mpvap, the baseline plain reaches 40.0, the specialists 90.0" in text
    assert "1.50M parameters, the specialists 9.00M together" in text
    assert "75.0 percent of birds (30 images) are taken for cars" in text
    assert "1.25 forward passes" in text
    assert "train: 12,345" in text
    assert "birds 0 75%" in text  # the sample's guess


def test_warnings_of_collapsed_features_and_of_a_loss_on_its_floor(tmp_path):
    run_dir = write_run(tmp_path, {"fine": 40.0, "flat": 1.0})
    assert "shared units give the same value" not in page_of(run_dir).text
    assert "no less than" not in page_of(run_dir).text
    name = f"{arm_folder('flat')}/result.json"
    run_dir.write_json(name, {**run_dir.read_json(name), "constant_units": 75.0, "effective_rank": 1.5})
    log = f"{arm_folder('flat')}/metrics.jsonl"
    last = {"kind": "step", "step": 7, "epoch": 3.5, "loss": 10.2, "gamma": [1, 1], "floor": [4.0, 6.0]}
    run_dir.write(log, run_dir.read(log) + json.dumps(last).encode() + b"\n")
    text = page_of(run_dir).text
    assert "flat: 75 percent of its shared units give the same value for every image" in text
    assert "flat: its loss ends at 10.2 where its gammas allow no less than 10.0" in text
    assert "fine: " not in text


def test_names_are_text_and_the_page_needs_nothing_else(tmp_path):
    run_dir = write_run(tmp_path, dict.fromkeys(NASTY, 30.0), verticals=NASTY, baseline=NASTY[0])
    page = page_of(run_dir)
    assert not {"script", "b", "i", "u", "link", "iframe", "object"} & set(page.tags)
    for name in NASTY[:2]:
        assert " ".join(name.split()) in page.text
    for key, value in page.attributes:
        if key in ("src", "href", "xlink:href") and value:
            assert value.startswith(("data:", "#"))
        assert not key.startswith("on")
    assert "url(" not in re.sub(r"url\(#", "", run_dir.read("report.html").decode())


def test_the_same_run_gives_the_same_bytes(tmp_path):
    first = write_run(tmp_path / "a", {"one": 40.0, "two": 65.0}, baseline="one")
    second = write_run(tmp_path / "b", {"one": 40.0, "two": 65.0}, baseline="one")
    build_report(first)
    build_report(second)
    assert first.read("report.html") == second.read("report.html")


@pytest.mark.parametrize(
    "kind",
    [
        {"arms": {"only": 50.0}, "specialists": False},
        {"arms": {"only": 50.0}, "verticals": ["one"], "evaluations": 0, "samples": False},
        {"arms": {"empty": None, "other": None}, "baseline": "empty"},
        {"arms": {f"arm {i}": float(i) for i in range(20)}, "verticals": [f"v{i}" for i in range(30)]},
    ],
    ids=["no specialists or baseline", "one vertical, nothing measured", "no figures", "many of all"],
)
def test_runs_that_lack_something(tmp_path, kind):
    run_dir = write_run(tmp_path, **kind)
    page = page_of(run_dir)
    assert page.tags.count("h1") == 1
    assert "None" not in page.text
    assert "nan" not in page.text.lower().split()
    for name in kind["arms"]:
        assert name in page.text


def test_arms_look_different_and_the_baseline_is_grey(tmp_path):
    run_dir = write_run(tmp_path, {f"arm {i}": 50.0 for i in range(20)}, baseline="arm 3")
    style = looks(read_record(run_dir))
    assert len(set(style.values())) == 20
    red, green, blue = (style["arm 3"].colour[i : i + 2] for i in (1, 3, 5))
    assert red == green == blue


def test_figures_are_files_of_their_own(tmp_path):
    run_dir = write_run(tmp_path / "run", {"one": 40.0, "two": 65.0})
    written = write_figures(run_dir, tmp_path / "figures")
    assert [file.name for file in written] == ["overview.svg", "learning.svg", "loss.svg", "gamma.svg"]
    for file in written:
        assert "var(--" not in file.read_text()


def test_figures_of_some_arms(tmp_path):
    run_dir = write_run(tmp_path / "run", {"one": 40.0, "two": 65.0})
    loss = next(f for f in write_figures(run_dir, tmp_path / "figures", ["two"]) if f.name == "loss.svg")
    assert ">two<" in loss.read_text()
    assert ">one<" not in loss.read_text()
    with pytest.raises(RunDirError, match="no arm 'tow'; did you mean 'two'"):
        write_figures(run_dir, tmp_path / "figures", ["tow"])


@pytest.mark.parametrize(
    ("low", "high", "shown"), [(570, 960, {"600", "700"}), (30, 250, {"50", "100", "200"}), (1, 1e4, {"10"})]
)
def test_a_logarithmic_axis_has_numbers_whatever_it_spans(low, high, shown):
    axes = Figure().subplots()
    logarithmic(axes.yaxis)
    axes.set_ylim(low, high)
    axes.figure.canvas.draw()
    texts = {label.get_text() for label in axes.get_yticklabels(which="both")}
    assert shown <= texts
    assert not texts & {"3", "40", "4000"}


def test_an_unfinished_run_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(RunDirError, match="not finished"):
        build_report(RunDir(tmp_path))
    run_dir = write_run(tmp_path, {"one": 40.0})
    run_dir.write("arms/one/metrics.jsonl", '{"kind": "step"')
    with pytest.raises(RunDirError, match=r"arms/one/metrics.jsonl: damaged"):
        build_report(run_dir)


@pytest.mark.parametrize(
    "damage",
    {
        "gone": lambda png: None,
        "empty": lambda png: b"",
        "cut short": lambda png: png[: len(png) // 2],
        "a flipped bit": lambda png: png[:40] + bytes([png[40] ^ 8]) + png[41:],
        "another format": lambda png: b"%!PS-Adobe-3.0 EPSF-3.0\n",
    }.items(),
    ids=lambda case: case[0],
)
def test_a_damaged_sample_is_left_out_with_a_line(tmp_path, damage):
    run_dir = write_run(tmp_path, {"one": 40.0})
    whole = run_dir.read("samples/000.png")
    run_dir.delete("samples/000.png")
    if (data := damage[1](whole)) is not None:
        run_dir.write("samples/000.png", data)
    name = run_dir.read_json("samples/samples.json")[0]["name"]
    assert f"Left out, their files are gone or damaged: {name}." in page_of(run_dir).text


def test_images_that_are_told_apart_have_columns_of_their_own(tmp_path):
    run_dir = write_run(tmp_path, {"a": 40.0, "b": 60.0})
    results = run_dir.read_json("results.json")
    results["arms"]["a"]["apart"] = {"new <faces>": 12.3, "old": None}
    results["arms"]["b"]["apart"] = {"new <faces>": 45.6, "old": 78.9}
    run_dir.write_json("results.json", results)
    page = page_of(run_dir)
    assert "params of new <faces> of old a 40.0" in page.text
    assert "1.50M 12.3 - b 60.0" in page.text
    assert "1.50M 45.6 78.9 specialists" in page.text
    console = Console(width=80, file=io.StringIO())
    for table in results_tables([results, results]):
        console.print(table)
    assert re.search(r"of new <faces> +of old", console.file.getvalue())
    assert re.search(r"b .* 45.6±0.0 +78.9±0.0", console.file.getvalue())


def test_several_runs_are_compared_within_eighty_columns(tmp_path):
    run_dir = write_run(tmp_path, {"+D+SC+S base-rate": 40.0, "b": 60.0})
    results = run_dir.read_json("results.json")
    for row in results["arms"].values():
        row |= {"mpvap": 99.9, "top1": 99.9, "top5": 100.0, "routed_mpvap": 99.9, "gap_closed": -99.9}
    console = Console(width=80, file=io.StringIO())
    console.print(*results_tables([results, results]))
    lines = console.file.getvalue().splitlines()
    figures = "99.9±0.0 99.9±0.0 100.0±0.0 99.9±0.0 -99.9±0.0 1.50M"
    assert ["+D+SC+S", "base-rate", *figures.split()] in [line.split() for line in lines]
