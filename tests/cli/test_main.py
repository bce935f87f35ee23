"""The table of commands agrees with the commands, and `--help` imports none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kcframe.cli.main import BENCH_COMMANDS, COMMANDS, JOB_COMMANDS, LazyCommand, cli

GROUPS = {"": COMMANDS, "job": JOB_COMMANDS, "bench": BENCH_COMMANDS}
ENTRIES = [(group, name) for group, table in GROUPS.items() for name in table]


@pytest.mark.parametrize(("group", "name"), ENTRIES)
def test_a_line_of_the_table_is_the_first_line_of_the_commands_docstring(group, name):
    target, line = GROUPS[group][name]
    command = LazyCommand(name, target, line).load()
    assert command.name == name
    assert command.callback.__doc__.splitlines()[0] == line


def test_the_groups_have_the_commands_of_the_tables():
    assert set(cli.commands) == {*COMMANDS, "job", "bench"}
    assert set(cli.commands["job"].commands) == set(JOB_COMMANDS)
    assert set(cli.commands["bench"].commands) == set(BENCH_COMMANDS)


@pytest.mark.parametrize("words", [["--help"], ["job", "--help"], ["bench", "--help"]])
def test_help_lists_all_commands_and_imports_none(words):
    code = (
        "import sys; from kcframe.cli.main import cli\n"
        f"cli.main({words!r}, standalone_mode=False)\n"
        "print('imported:', *sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    group = words[0] if words[0] in GROUPS else ""
    for name in GROUPS[group]:
        assert f"\n  {name} " in done.stdout
    imported = set(done.stderr.split())
    modules = {target.partition(":")[0] for table in GROUPS.values() for target, _ in table.values()}
    assert not imported & {"torch", "ray", "numpy", "kcframe.cli.predict", *modules}


@pytest.mark.parametrize(
    "words",
    [
        *(f"{f'{group} ' if group else ''}{name} --help" for group, name in ENTRIES),
        *(f"{name} nowhere.yaml" for name in ("run", "cache", "tune", "validate", "describe")),
        "submit nowhere.yaml --address http://127.0.0.1:9 --run-dir s3://b/x",
    ],
)
def test_neither_help_nor_a_wrong_recipe_needs_torch(words):
    code = (
        "import sys; sys.modules.update(torch=None, ray=None); from kcframe.cli.main import main\n"
        f"sys.argv[1:] = {words.split()!r}\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if "--help" in words else 2), done.stderr
    assert "--help" in words or "nowhere.yaml: no such file" in done.stderr


@pytest.mark.parametrize("words", ["rnu", "job lgos", "bench haed"])
def test_an_unknown_command_gives_clicks_error(words):
    command = [sys.executable, "-m", "kcframe", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert f"No such command '{words.split()[-1]}'" in done.stderr
    assert done.stdout == ""
