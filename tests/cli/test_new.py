"""`kcframe new`: what it writes is well kept, and works before a line of it is changed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from kcframe.cli.new import LONGEST, new_plugin, plugin_files
from kcframe.errors import PluginError
from kcframe.registry import KINDS

ROOT = Path(__file__).parents[2]


def put_where_it_is_found(folder: Path, site: Path) -> None:
    """What `pip install` of a folder does, without a build and without the network."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    (entries,) = project["entry-points"].values()
    (package,) = entries.values()
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (about / "entry_points.txt").write_text(f"[kcframe]\n{lines}")
    (site / package).symlink_to(folder / package)


@pytest.fixture(scope="module")
def idea(tmp_path_factory):
    """One new plugin of each kind, installed for the processes that `run` starts: (folders, run)."""
    top = tmp_path_factory.mktemp("new")
    folders = []
    for kind in KINDS:
        new_plugin(kind, "my-idea", str(top))
        folders.append(top / f"kcframe-{kind}-my-idea")
        put_where_it_is_found(folders[-1], top / "site")

    def run(*words, code=0):
        path = os.pathsep.join([str(top / "site"), str(ROOT)])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        command = [sys.executable, "-m", *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=top, timeout=300, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return folders, run


def test_their_tests_pass_at_once(idea):
    folders, run = idea
    printed = run("pytest", "-q", "-p", "no:cacheprovider", *folders)
    assert " passed" in printed
    assert "failed" not in printed


def test_they_are_listed_and_checked(idea):
    _, run = idea
    listed = run("kcframe", "plugins")
    for kind in KINDS:
        assert f"kcframe-{kind}-my-idea 0.1.0" in listed
    printed = run("kcframe", "check-plugin", "objective/my-idea")
    assert "objective 'my-idea' of kcframe-objective-my-idea 0.1.0" in printed
    assert "  ok       an interrupted run goes on to the same result" in printed


def test_a_recipe_of_new_plugins_runs(idea, tmp_path):
    """Each with the line that its README gives."""
    folders, run = idea
    recipe = {
        "kcframe": 1,
        "name": "mine",
        "student": {"train": {"epochs": 1, "batch_size": 32, "learning_rate": 0.01}},
        "arms": {"mine": {}},
    }
    for folder in folders:
        shown = (folder / "README.md").read_text().split("```yaml\n")[1]
        given = yaml.safe_load(shown.partition("```")[0])
        # The teacher's asks teachers; the objective's own does not.
        if "teacher" in folder.name:
            recipe["arms"]["taught"] = given["student"]
        else:
            recipe["student"] |= given.pop("student", {})
            recipe |= given
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    printed = run("kcframe", "run", file, "--run-dir", tmp_path / "run")
    assert "arm taught, step" in printed  # the new callback's line
    assert (tmp_path / "run/arms/taught/result.json").exists()


def test_what_is_written_is_well_kept(tmp_path):
    """For names of any length: ruff's line length and formatting hold."""
    names = ("x", "my-idea", "a" * LONGEST, "-".join("a" * (LONGEST // 2)))
    for kind in KINDS:
        for name in names:
            for path, text in plugin_files(kind, name).items():
                assert "$" not in text
                file = tmp_path / f"{kind}-{name}" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                if path.endswith(".toml"):
                    assert tomllib.loads(text)["project"]["name"] == f"kcframe-{kind}-{name}"
    for command in (["check"], ["format", "--check", "--diff"]):
        ruff = [
            sys.executable,
            "-m",
            "ruff",
            *command,
            "--config",
            str(ROOT / "pyproject.toml"),
            "--no-cache",
        ]
        done = subprocess.run(
            [*ruff, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_ends_with_what_to_do_next(tmp_path, capsys):
    new_plugin("pacing", "slow-start", str(tmp_path))
    said = capsys.readouterr().out
    folder = tmp_path / "kcframe-pacing-slow-start"
    for line in (f"pip install -e {folder}", f"pytest {folder}", "kcframe check-plugin pacing/slow-start"):
        assert f"  {line}\n" in said
    assert "pacing: {name: slow-start, options: {strength: 0.5}}" in said
    for line in said.splitlines():
        if line.startswith("wrote "):
            assert Path(line.removeprefix("wrote ")).is_file()


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("pacng", "x", "no kind of plugin 'pacng'; did you mean 'pacing'?"),
        ("pacing", "Catch Up!", "at most 28 characters, e.g. 'catch-up'"),
        ("pacing", "2nd", "e.g. 'nd'"),
        ("pacing", "a--b", "e.g. 'a-b'"),
        ("pacing", "…", "e.g. 'catch-up'"),
        ("pacing", "x" * 29, f"e.g. '{'x' * 28}'"),
        ("pacing", "../up", "e.g. 'up'"),
        ("pacing", "plugin", "another name"),
        ("pacing", "self-paced", "pacing 'self-paced' of kcframe 0.1.0 is installed already: choose another"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, kind, name, said):
    with pytest.raises(PluginError) as caught:
        new_plugin(kind, name, str(tmp_path))
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    target = tmp_path / "kcframe-data-mine"
    target.mkdir()
    with pytest.raises(PluginError, match="kcframe-data-mine is there already: delete it, choose another"):
        new_plugin("data", "mine", str(tmp_path))
    assert list(target.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(PluginError, match="cannot be written: Not a directory"):
        new_plugin("data", "mine", str(tmp_path / "file"))
