"""What the README says is so."""

import re

from helpers import ROOT

README = (ROOT / "README.md").read_text()


def test_the_lines_that_the_guides_table_quotes_are_in_the_files_it_names():
    rows = re.findall(r"^\|.*\| \[`\w+\.py`\]\((mnist_lightning/\w+\.py)\): (.*) \|$", README, re.MULTILINE)
    assert len(rows) >= 13
    for path, quotes in rows:
        source = (ROOT / path).read_text()
        for line in re.findall(r"`(.+?)`", quotes):
            assert line in source, f"{path} has no {line}"


def test_every_path_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\((?!http|#)(.+?)\)", re.sub("`.*?`", "", README))  # what is in backticks is code
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_option_that_the_readme_names_is_one(tmp_path):
    from mnist_lightning.training.cli import MNISTCLI

    known = MNISTCLI(["--trainer.logger=false"]).parser._option_string_actions
    named = set(re.findall(r"`(--[a-z_.]+)", README)) - {"--help"}
    assert named - known.keys() == set()
