"""What must hold of the whole house: every package has its floor, what starts light stays light, and a plugin
written for api=1 goes on working."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from kcframe.interfaces.hooks import API, OLDEST_API
from kcframe.recipe.load import load_recipe
from kcframe.registry import Registry
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from tests.conftest import Quiet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kcframe"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
NOT_CODE = {"scaffold"}  # templates

LIGHT = """
import sys
from importlib import import_module
sys.modules.update(torch=None, torchvision=None, ray=None)
for name in sys.argv[1:]:
    import_module(name)
"""


def rooms() -> set[str]:
    """The packages and modules directly below kcframe."""
    modules = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    return modules | {path.name for path in PACKAGE.iterdir() if list(path.glob("**/*.py"))}


def rooms_in(names: list[str]) -> set[str]:
    """Those of them that a contract's list names, itself or a part of it."""
    listed = " | ".join(names)
    return {name.strip().removeprefix("kcframe.").partition(".")[0] for name in listed.split("|")}


def test_every_room_has_its_floor_and_is_told_not_to_import_ray():
    (layers,) = (contract for contract in CONTRACTS if contract["type"] == "layers")
    (ray,) = (contract for contract in CONTRACTS if contract["name"].startswith("ray only"))
    assert layers["exhaustive"]
    assert rooms_in(layers["layers"]) == rooms() - NOT_CODE
    assert rooms_in(ray["source_modules"]) == rooms() - NOT_CODE


def test_run_has_no_module_that_may_import_ray_by_oversight():
    (ray,) = (contract for contract in CONTRACTS if contract["name"].startswith("ray only"))
    modules = {
        f"kcframe.run.{path.stem}" for path in (PACKAGE / "run").glob("*.py") if path.stem != "__init__"
    }
    modules |= {
        f"kcframe.run.backends.{path.stem}"
        for path in (PACKAGE / "run/backends").glob("*.py")
        if path.stem != "__init__"
    }
    assert modules <= set(ray["source_modules"])


def test_recipes_reports_and_the_command_line_start_without_torch_and_ray():
    names = [
        f"kcframe.{path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}"
        for folder in ("recipe", "report", "storage", "cli")
        for path in sorted((PACKAGE / folder).glob("*.py"))
        if path.stem != "__init__"
    ]
    assert len(names) > 30
    done = subprocess.run([sys.executable, "-c", LIGHT, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_checkers_of_plugin_authors_see_our_types():
    assert (PACKAGE / "py.typed").exists()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data["kcframe"]


def test_a_plugin_written_for_api_1_still_works(tmp_path, monkeypatch):
    assert OLDEST_API == 1 <= API
    registry = Registry.discover()
    registry.add_file(str(ROOT / "tests/fixtures/plugin_of_api_1.py"))
    for module in ("kcframe.assembly.plugins", "kcframe.assembly.arms", "kcframe.stages.settings"):
        monkeypatch.setattr(f"{module}.installed", lambda: registry)
    file = tmp_path / "recipe.yaml"
    train = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, "log_every": 1}
    tree = {
        "kcframe": 1,
        "name": "old",
        "data": "old-brightness",
        "student": {
            "backbone": "old-flat",
            "expander": "old-narrow",
            "pacing": {"name": "old-warm", "options": {"steps": 2}},
            "objective": "old-squared",
            "teachers": ["old-constant"],
            "train": train,
        },
        "arms": {"student": {}},
        "callbacks": ["old-shout"],
    }
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    recipe = load_recipe(str(file), registry)
    quiet = Quiet()
    results = run(recipe, RunDir(tmp_path / "run"), quiet)
    assert 0 <= results["arms"]["student"]["mpvap"] <= 100
    heard = sys.modules["kcframe_file_plugin_of_api_1"].HEARD
    assert heard[0] == ("begin", "arm student", "arms/student", ("dark", "light"))
    assert heard[-1] == ("end", True)
    assert [what for what, *_ in heard].count("step") == 6
    assert not any("switched off" in line for line in quiet.said)
