"""The README and docs are held to their word: their Python blocks run as printed and type-check, their links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
TOP = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
SECONDS_MAX = 30


def snippets() -> list[str]:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    return [found for text in texts for found in re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)]


def title(snippet: str) -> str:
    first = snippet.partition("\n")[0]
    return first.split()[1] if first.startswith("# ") else first


@pytest.mark.parametrize("snippet", snippets(), ids=title)
def test_a_snippet_runs_as_printed(snippet: str, tmp_path: Path) -> None:
    """Twice: what a run leaves behind must not be in the way of the next one. Warnings are errors here too."""
    if "es.Encryption(" in snippet:
        pytest.importorskip("cryptography", reason="pip install 'everstep[encryption]'")
    script = tmp_path / "snippet.py"
    script.write_text(snippet, encoding="utf-8")

    first, second = run(script), run(script)

    assert (0, "") == (first.returncode, first.stderr)
    assert first.stdout
    assert (0, "", first.stdout) == (second.returncode, second.stderr, second.stdout)


@pytest.mark.parametrize(
    "checker",
    [["mypy", "--strict"], ["pyright", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_the_snippets_type_check_strictly(checker: list[str], tmp_path: Path) -> None:
    """What a user copies must please the checker that the user has."""
    for number, snippet in enumerate(snippets()):
        (tmp_path / f"snippet_{number}.py").write_text(snippet, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.pyright]\ntypeCheckingMode = "strict"\n', encoding="utf-8")

    done = subprocess.run([sys.executable, "-m", *checker, "."], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / name for name in TOP)], ids=lambda page: page.name)
def test_a_link_into_the_repository_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))

    assert [] == [link for link in links if not (page.parent / link).exists()]


def run(script: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVERSTEP_")}
    return subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / name for name in (*TOP, "ARCHITECTURE.md"))], ids=lambda page: page.name)
def test_a_page_has_no_traces_of_a_merge(page: Path) -> None:
    marks = ("<" * 7, ">" * 7)

    assert [] == [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(marks)]
