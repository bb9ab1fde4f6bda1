"""The README says what is there: its commands exist, its settings are the settings."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from config.settings import Settings, env_name

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]


def settings_table() -> str:
    """The table of settings, as it must stand in the README."""
    described = descriptions()
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "none" if field.default == () else f"`{field.default}`"
        shown = "empty" if str(field.default) == "" else default
        lines.append(f"| `{env_name(name)}` | {shown} | {described[name]} |")
    return "\n".join(lines)


def descriptions() -> dict[str, str]:
    """The text below each setting; pydantic could keep it, but at the cost of every start."""
    body = ast.parse(textwrap.dedent(inspect.getsource(Settings))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        setting.target.id: inspect.cleandoc(text.value.value)
        for setting, text in itertools.pairwise(body.body)
        if isinstance(setting, ast.AnnAssign)
        and isinstance(setting.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def test_the_table_of_settings_is_the_settings() -> None:
    table = re.search(r"<!-- settings:.*?-->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)
    assert table is not None
    assert table[1] == settings_table(), f"it should be:\n{settings_table()}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:\$ |`)make ([a-z-]+)", README))))
def test_each_make_target_of_the_readme_exists(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)


def test_each_command_of_the_readme_exists(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "streams.app", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    there = set(re.findall(r"^  ([a-z-]+) ", done.stdout.partition("Commands:")[2], re.MULTILINE))
    assert set(re.findall(r"-A streams\.app (?:--loop uvloop )?([\w-]+)", README)) - there == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_file_that_a_document_names_exists(document: str) -> None:
    linked = re.findall(r"\]\(((?:\.\./)?[\w./-]+)\)", document)
    quoted = re.findall(r"`((?:tests|agents|streams|config|docs)/[\w./-]+)`", document)
    missing = [
        name for name in {*linked, *quoted} if not (ROOT / name.removeprefix("../")).exists()
    ]
    assert missing == []


def test_each_action_to_alert_on_is_logged_somewhere() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("streams", "agents", "config")
        for path in (ROOT / folder).rglob("*.py")
    )
    actions = re.findall(r"^\| `(\w+)` \| (?:error|warning) ", README, re.MULTILINE)
    assert actions
    assert [name for name in actions if f'action="{name}"' not in sources] == []
