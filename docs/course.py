"""Pages of the course, made from the examples: their words, then their files.

An example's README is written for readers of the repository.  Here its links to other examples and
to documentation become links between pages, and its files are shown below its text, so that no
reader needs the repository.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

#: What can be shown, and how it is coloured.
LANGUAGES = {
    ".py": "python",
    ".c": "c",
    ".cpp": "cpp",
    ".f90": "fortran",
    ".config": "ini",
    ".xml": "xml",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".patch": "diff",
    ".sh": "bash",
    ".sbatch": "bash",
}
#: In the order of the course, then what lies beside it.
BESIDE = ("public_codes", "heat2d", "lammps", "deisa", "slurm", "shifter", "ips_plugins")

_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
_HEADING = re.compile(r"^## 01: (.*?)\n(.*)\Z", re.MULTILINE | re.DOTALL)


def examples() -> list[str]:
    """Names of the pages: ``01_external_task``, ..., then those beside the course."""
    numbered = sorted(path.stem for path in EXAMPLES.glob("[0-9][0-9]_*"))
    return [*numbered, *BESIDE]


def write_course(docs: Path) -> None:
    """Write a page for each example, and their table, into ``_course``."""
    folder = docs / "_course"
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.md": "\n".join(page_lines(name, docs)) + "\n" for name in examples()}
    pages["index.md"] = "\n".join(index_lines(docs)) + "\n"
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def index_lines(docs: Path) -> Iterator[str]:
    """The table of the course, and the pages in their order."""
    text, _, _ = (EXAMPLES / "README.md").read_text(encoding="utf-8").partition("## 01:")
    yield linked(text, EXAMPLES, docs).rstrip()
    yield ""
    yield "```{toctree}\n:hidden:\n"
    yield from examples()
    yield "```"


def page_lines(name: str, docs: Path) -> Iterator[str]:
    """Words and files of an example."""
    folder = EXAMPLES / name
    if name.startswith("01"):
        folder = EXAMPLES
        whole = (EXAMPLES / "README.md").read_text(encoding="utf-8")
        found = _HEADING.search(whole)
        if found is None:
            raise ValueError("examples/README.md has no section '## 01: ...'")
        title, words = found.groups()
        text, files = f"# 01. {title[0].upper()}{title[1:]}\n{words}", [EXAMPLES / f"{name}.py"]
    else:
        readme = folder / "README.md"
        text = readme.read_text(encoding="utf-8")
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in LANGUAGES]
        files = [path for path in files if "build" not in path.relative_to(folder).parts]
    yield linked(text, folder, docs).rstrip()
    for path in files:
        yield ""
        yield f"## `{path.relative_to(ROOT)}`"
        yield ""
        yield f"```{LANGUAGES[path.suffix]}"
        yield path.read_text(encoding="utf-8").rstrip()
        yield "```"


def linked(text: str, folder: Path, docs: Path) -> str:
    """Make links of a README those of a page."""

    def target_of(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = (folder / target).resolve()
        if path.is_relative_to(docs):
            return f"[{label}]({os.path.relpath(path, docs / '_course')}{anchor})"
        if path.is_relative_to(EXAMPLES):
            page = path.relative_to(EXAMPLES).parts[0].removesuffix(".py")
            if page == "README.md":
                return f"[{label}](index.md{anchor})"
            if page in examples():
                return f"[{label}]({page}.md)"
        where = f"`{path.relative_to(ROOT)}`"
        return where if label.strip("`") == path.name else f"{label} ({where})"

    return _LINK.sub(target_of, text)
