"""Recipes: what is merged, and thirty ways to get one wrong, each with a readable answer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kcframe.errors import RecipeError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))

GOOD = """\
kcframe: 1
name: good
data: {name: synthetic, options: {verticals: 2, classes: 8}}
specialists:
  backbone: {name: small-cnn}
  train: {epochs: 1, batch_size: 8, learning_rate: 0.01}
student:
  backbone: small-cnn
  expander: {name: fc-sc, options: {s1: 32, s2: 16}}
  objective: {name: top-k-bce, options: {k: 5}}
  train: {epochs: 2, batch_size: 8, learning_rate: 0.01}
baseline: generalist
arms:
  generalist: {expander: fc-fc, objective: hard-bce}
  full: {pacing: self-paced}
"""


def write(tmp_path: Path, text: str, name: str = "r.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def load(tmp_path: Path, text: str = GOOD, *overrides: str):
    return load_recipe(write(tmp_path, text), installed(), overrides)


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *overrides)
    return [line.removeprefix(f"{tmp_path}/") for line in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) >= 1, old
    return GOOD.replace(old, new, 1)


# -- what is merged ---------------------------------------------------------------------------------


def test_an_arm_is_the_student_section_with_its_own_laid_over(tmp_path):
    recipe = load(tmp_path)
    assert recipe.arms["full"].expander.options["s2"] == 16
    assert recipe.arms["full"].pacing.name == "self-paced"
    assert recipe.arms["generalist"].pacing.name == "none"


def test_another_plugin_keeps_the_options_it_knows_and_drops_the_rest(tmp_path):
    arm = load(tmp_path).arms["generalist"]
    assert arm.expander.name == "fc-fc"
    assert (arm.expander.options["s1"], arm.expander.options["s2"]) == (32, 16)
    assert arm.objective.options == {}


def test_options_are_filled_in_with_defaults(tmp_path):
    options = load(tmp_path).arms["full"].pacing.options
    assert options["init"] == "sqrt-classes"
    assert options["start"] == "paper"


def test_set_changes_one_value_everywhere_it_is_inherited(tmp_path):
    recipe = load(tmp_path, GOOD, "student.expander.options.s2=64", "seed=7")
    assert {arm.expander.options["s2"] for arm in recipe.arms.values()} == {64}
    assert recipe.seed == 7


def test_set_reaches_list_entries_and_arms(tmp_path):
    text = GOOD.replace("student:\n", "student:\n  teachers: [specialists]\n")
    recipe = load(
        tmp_path, text, "student.teachers.0.options.verticals=[a]", "arms.full.train.epochs=9", "name=x"
    )
    assert recipe.arms["full"].teachers[0].options == {"verticals": ["a"]}
    assert recipe.arms["full"].train.epochs == 9
    assert recipe.arms["generalist"].train.epochs == 2


def test_set_of_another_plugin_drops_options_it_does_not_know(tmp_path):
    recipe = load(tmp_path, GOOD, "student.objective.name=hard-bce")
    assert recipe.arms["full"].objective.options == {}


def test_includes_are_laid_under_and_relative_to_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, GOOD, "base.yaml")
    source = write(
        tmp_path, "include: ../base.yaml\nname: child\narms: {full: {pacing: none}}\n", "sub/c.yaml"
    )
    recipe = load_recipe(source, installed())
    assert recipe.name == "child"
    assert recipe.arms["full"].pacing.name == "none"
    assert set(recipe.arms) == {"generalist", "full"}


def test_an_error_in_an_included_file_names_that_file(tmp_path):
    write(tmp_path, changed("epochs: 2", "epochs: 0"), "base.yaml")
    source = write(tmp_path, "include: base.yaml\n", "c.yaml")
    with pytest.raises(RecipeError, match=r"base\.yaml:11: student\.train\.epochs"):
        load_recipe(source, installed())


def test_an_alias_may_be_overridden_in_part(tmp_path):
    text = GOOD.replace("arms:", "arms:\n  first: &first {pacing: {name: self-paced, options: {init: 3}}}")
    text += "  second: {<<: *first, pacing: none}\n  third: {<<: *first, objective: hard-bce}\n"
    arms = load(tmp_path, text).arms
    assert (arms["second"].pacing.name, arms["third"].pacing.options["init"]) == ("none", 3)
    assert arms["third"].objective.name == "hard-bce"


def test_yaml_1_1_floats_without_a_dot_are_numbers(tmp_path):
    assert load(tmp_path, changed("learning_rate: 0.01", "learning_rate: 1e-3"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_we_ship_is_valid(path):
    load_recipe(str(path), installed())


def test_there_are_recipes():
    assert len(RECIPES) >= 2


# -- what is refused --------------------------------------------------------------------------------

MALFORMED = {
    "empty file": ("", "r.yaml: the file is empty"),
    "a list": ("- a\n- b\n", "r.yaml:1: a recipe is a mapping"),
    "bad yaml": (changed("name: good", "name: [good"), r"r.yaml:\d+: not valid YAML"),
    "tab": (changed("  backbone: small-cnn", "\tbackbone: small-cnn"), r"r.yaml:8: not valid YAML"),
    "key twice": (changed("name: good", "name: good\nname: bad"), "'name' is given twice"),
    "python object": (
        changed("name: good", "name: !!python/object/apply:os.system [ls]"),
        "r.yaml:2: name: not valid YAML here: the tag .*python/object",
    ),
    "search of nothing": (
        GOOD + "search: {fields: {}}\n",
        "search.fields: .*at least 1 item",
    ),
    "search without values": (
        GOOD + "search:\n  fields:\n    train.epochs: {low: 3}\n",
        r"r.yaml:\d+: search.fields.train.epochs: needs either low and high, or choice",
    ),
    "search of an unknown field": (
        GOOD + "search:\n  fields:\n    train.epoch: {choice: [3]}\n",
        r"r.yaml:\d+: search.fields.train.epoch: .*did you mean 'train.epochs'",
    ),
    "search beyond a bound": (
        GOOD + "search:\n  fields:\n    train.momentum: {low: 0.5, high: 2}\n",
        r"r.yaml:\d+: search.fields.train.momentum: .*less than 1, not 2",
    ),
    "elastic by half": (
        GOOD + "execution: {backend: ray, min_workers: 2}\n",
        "execution: min_workers and max_workers come together",
    ),
    "no version": (changed("kcframe: 1\n", ""), "kcframe: is missing"),
    "other version": (changed("kcframe: 1", "kcframe: 2"), "r.yaml:1: kcframe: should be 1, not 2"),
    "unknown section": (changed("baseline:", "basline:"), "r.yaml:12: basline: unknown .*'baseline'"),
    "student misspelt": (changed("student:", "studnet:"), "studnet: unknown field; did you mean 'student'"),
    "unknown field": (
        changed("  train: {epochs: 2", "  trian: {epochs: 2"),
        "r.yaml:11: student.trian: unknown field; did you mean 'train'",
    ),
    "missing field": (changed("epochs: 2, ", ""), "r.yaml:11: student.train.epochs: is missing .passes over"),
    "zero epochs": (changed("epochs: 2", "epochs: 0"), "student.train.epochs: should be greater .* not 0"),
    "word for number": (changed("epochs: 2", "epochs: two"), "train.epochs: should be a valid int.*'two'"),
    "negative rate": (
        changed("learning_rate: 0.01}\nstudent", "learning_rate: -1}\nstudent"),
        "r.yaml:6: specialists.train.learning_rate: should be greater than 0, not -1",
    ),
    "rate not finite": (changed("learning_rate: 0.01", "learning_rate: .inf"), "should be a finite number"),
    "bad choice": (
        changed("epochs: 2,", "epochs: 2, optimizer: adamv,"),
        "student.train.optimizer: should be 'adamw' or 'sgd'.*did you mean 'adamw'",
    ),
    "no such data": (
        changed("name: synthetic", "name: syntetic"),
        "data.name: no data 'syntetic' .*'synthetic'",
    ),
    "no such backbone": (
        changed("backbone: small-cnn", "backbone: resnet18"),
        "torchvision, options: {model",
    ),
    "no such pacing": (
        changed("pacing: self-paced", "pacing: self-pased"),
        "r.yaml:15: arms.full.pacing.*'self-paced'",
    ),
    "no such expander": (changed("name: fc-sc", "name: fc-cs"), "student.expander.name: no expander 'fc-cs'"),
    "no such objective": (changed("top-k-bce", "topk-bce"), "objective.name.*did you mean 'top-k-bce'"),
    "no such teacher": (
        changed("student:\n", "student:\n  teachers: [specialist]\n"),
        "student.teachers.0.name: no teacher 'specialist' .*'specialists'",
    ),
    "unknown option": (
        changed("options: {k: 5}", "options: {kk: 5}"),
        "r.yaml:10: student.objective.options.kk: unknown option of objective 'top-k-bce'; .*'k'",
    ),
    "option out of range": (
        changed("{k: 5}", "{k: 0}"),
        "options.k: should be greater than or equal to 1, not 0",
    ),
    "options not a mapping": (
        changed("options: {k: 5}", "options: [5]"),
        "options: should be a .*mapping|dict",
    ),
    "option rule": (
        changed("expander: fc-fc", "expander: {name: fc-sc-shared, options: {x: 99}}"),
        "x = 99 units cannot be shared out of s2 = 16",
    ),
    "no arms": (GOOD.split("baseline")[0] + "arms: {}\n", "arms: .*at least 1"),
    "arms a list": (GOOD.split("baseline")[0] + "arms: [a]\n", "arms: should be a"),
    "baseline unknown": (
        changed("baseline: generalist", "baseline: generalits"),
        "no arm 'generalits'; did you",
    ),
    "arms alike": (GOOD + "  Full: {}\n", "'full' and 'Full' differ only in case"),
    "an arm that is another folder": (GOOD + "  ..: {}\n", "becomes the name of a folder"),
    "control character in an arm": (GOOD + '  "a\\e[2J": {}\n', "becomes the name of a folder"),
    "slash in an arm": (GOOD + "  a/b: {}\n", "arms.a/b: a name has no / "),
    "arm unknown field": (
        GOOD + "  more: {objektive: hard-bce}\n",
        "arms.more.objektive: unknown.*'objective'",
    ),
    "student a word": (
        GOOD.split("student:")[0] + "student: yes\narms: {a: {}}\n",
        "student: should be a mapping",
    ),
    "an option of pip among the packages": (
        GOOD + "execution: {packages: ['--index-url=https://elsewhere']}\n",
        "execution.packages.0: is no requirement as pip reads it",
    ),
    "backend unknown": (GOOD + "execution: {backend: slurm}\n", "execution.backend: should be 'local'"),
    "include missing": ("include: nowhere.yaml\n" + GOOD, "includes .*nowhere.yaml: no such file"),
    "include itself": ("include: r.yaml\n" + GOOD, "includes go in a circle"),
    "refers to itself": ("kcframe: 1\nname: &a [*a]\n", "r.yaml:2: name.0: refers to itself"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_recipe_is_answered_in_words(tmp_path, what):
    text, expected = MALFORMED[what]
    found = problems(tmp_path, text)
    assert any(re.search(expected, line) for line in found), found
    for line in found:
        assert "\n" not in line
        assert not re.search("Traceback|pydantic|type=", line)


def test_an_alias_bomb_is_refused_quickly(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than" in problems(tmp_path, "\n".join(lines))[0]


def test_all_problems_come_at_once_each_once(tmp_path):
    text = (
        GOOD.replace("epochs: 2", "epochs: 0")
        .replace("{k: 5}", "{k: 0, kk: 1}")
        .replace("name: good", "nam: good")
    )
    found = problems(tmp_path, text)
    assert len(found) == len(set(found)) == 5, found


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "write it as path=value"),
        ("seed=many", "--set seed=many: seed: should be a valid integer"),
        ("student.expandr.options.s2=3", "unknown field; did you mean 'expander'"),
        ("student.expander.options.s3=3", "unknown option of expander 'fc-sc'; known: normalisation, s1, s2"),
        ("a=[1", "'\\[1' is not a YAML value"),
    ],
)
def test_a_bad_override_names_itself(tmp_path, override, expected):
    assert re.search(expected, problems(tmp_path, GOOD, override)[0])


@pytest.mark.parametrize("source", ["nowhere.yaml", ".", "memory://nowhere.yaml", "nosuchscheme://x.yaml"])
def test_a_file_that_cannot_be_read_is_named(source):
    with pytest.raises(RecipeError, match=re.escape(source)):
        load_recipe(source, installed())


def test_validating_imports_neither_torch_nor_ray(tmp_path):
    source = write(tmp_path, GOOD)
    code = (
        "import sys; from kcframe.cli.main import cli\n"
        f"recipe = {source!r}\n"
        "for words in 'validate ' + recipe, 'plugins', 'plugins pacing self-paced', '--help':\n"
        "    try: cli.main(words.split(), standalone_mode=False)\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'torchvision', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "self-paced" in done.stdout


@pytest.mark.parametrize("name", ["quickstart", "unicode-2k", "openimages"])
def test_a_recipe_as_runs_write_it_down_is_the_same_recipe(name, tmp_path):
    recipe = load_recipe(str(RECIPES[0].parent / f"{name}.yaml"), installed())
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    assert load_recipe(str(tmp_path / "again.yaml"), installed()).model_dump() == recipe.model_dump()
