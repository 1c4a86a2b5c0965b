"""What the README says is so."""

import re
from pathlib import Path

from helpers import ROOT

from mnist_lightning.training.cli import MNISTCLI

README = (ROOT / "README.md").read_text()


def test_the_lines_that_the_guides_table_quotes_are_in_the_files_it_names():
    rows = re.findall(r"^\|.*\| \[`\w+\.py`\]\((mnist_lightning/\w+/\w+\.py)\): (.*) \|$", README, re.MULTILINE)
    assert len(rows) >= 13
    for path, quotes in rows:
        source = (ROOT / path).read_text()
        for line in re.findall(r"`(.+?)`", quotes):
            assert line in source, f"{path} has no {line}"


def test_every_path_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\((?!http|#)(.+?)\)", re.sub("`.*?`", "", README))  # what is in backticks is code
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_heading_that_the_readme_links_to_is_there():
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#(.+?)\)", README)) - anchors == set()


def code_map():
    """The tree under "The code": each path, by the indentation of its line, and the words of that."""
    folders, words = {0: Path()}, {}
    for line in re.search(r"^## The code\n.*?^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1].splitlines():
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        folders[depth + 2] = folders[depth] / name
        words[folders[depth + 2]] = set(re.findall(r"\w+", line))
    return words


def test_the_code_map_names_what_is_there_and_every_module_of_the_library():
    named = code_map()
    assert [str(path) for path in named if not (ROOT / path).exists()] == []
    modules = {path.relative_to(ROOT) for path in ROOT.glob("mnist_lightning/**/*.py") if path.name != "__init__.py"}
    missing = {path for path in modules - named.keys() if path.stem not in named.get(path.parent, ())}
    assert missing == set()


def test_every_option_that_the_readme_names_is_one(dataset):
    known = MNISTCLI([f"--data.data_dir={dataset}", "--trainer.logger=false"]).parser._option_string_actions
    named = set(re.findall(r"`(--[a-z0-9_.]+)", README)) - {"--help"}
    assert named - known.keys() == set()
