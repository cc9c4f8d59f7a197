"""README.md and docs/: links, anchors and named files exist, and the example of a task works."""

import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax import tasks
from jen1_jax.config import load_config

ROOT = Path(__file__).parents[1]
PAGES = [Path("README.md"), *sorted(path.relative_to(ROOT) for path in ROOT.glob("docs/*.md"))]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`[^`]+`")
FOLDERS = "benchmarks|configs|data_pipeline|docs|jen1_jax|jen1_numpy|jen1_torch|launch|tests"


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page; repeated ones get a number."""
    seen, found = Counter(), set()
    for heading in re.findall(r"^#+ +(.+)$", FENCED.sub("", text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(text: str) -> list[str]:
    """The targets of all relative links and images."""
    targets = re.findall(r"\]\(([^)\s]+)\)", INLINE.sub("", FENCED.sub("", text)))
    return [target for target in targets if not re.match(r"\w+:", target)]


def named(text: str) -> set[str]:
    """The files and modules of the project that are named in code."""
    code = "\n".join(FENCED.findall(text) + INLINE.findall(FENCED.sub("", text)))
    paths = re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w", code)
    modules = re.findall(r"python -m (benchmarks\.\w+)", code)
    return {*paths, *(module.replace(".", "/") + ".py" for module in modules)}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_has_a_file_and_every_anchor_a_heading(page):
    text, missing = (ROOT / page).read_text(), []
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_that_a_page_names_exists(page):
    missing = {path for path in named((ROOT / page).read_text()) if not (ROOT / path).exists()}
    assert missing == set()


def test_every_link_that_the_code_prints_exists():
    printed = {
        link
        for package in ("jen1_jax", "jen1_numpy", "jen1_torch")
        for file in (ROOT / package).rglob("*.py")
        for link in re.findall(r"docs/\w[\w-]*\.md(?:#[\w-]+)?", file.read_text())
    }
    assert "docs/model.md#my-output-is-noise" in printed
    for link in printed:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in anchors((ROOT / path).read_text()), link


def test_every_form_of_anchor_link_and_file_name_is_found():
    text = (
        "# A `b` c\n## Same\n## Same\n```\n# no heading\n[no](link.md)\nbash launch/x.sh\n```\n"
        "[a](b.md#c) ![d](e.png) [f](https://g.h) `[no](i.md)` `jen1_jax/x.py` "
        "`python -m benchmarks.x RUN` `RUN/tests/x` tests/y.py"
    )
    assert anchors(text) == {"a-b-c", "same", "same-1"}
    assert links(text) == ["b.md#c", "e.png"]
    assert named(text) == {"launch/x.sh", "jen1_jax/x.py", "benchmarks/x.py"}


@pytest.mark.slow
def test_the_task_of_the_example_in_the_docs_is_drawn(tmp_path):
    known = list(tasks.TASKS)
    text = (ROOT / "docs/extending.md").read_text()
    file = tmp_path / "outpainting.py"
    file.write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    try:
        config = load_config(str(file), {})
        drawn = tasks.draw_tasks(jax.random.key(0), jnp.full(20, 30), 32, 0, config.tasks)
    finally:
        for name in set(tasks.TASKS) - set(known):
            del tasks.TASKS[name]
    mask = np.asarray(drawn.mask[..., 0])[np.asarray(drawn.task) == len(known)]
    assert len(mask) == 4  # a fifth of the batch, since text-to-music has two fifths
    for row in mask:
        given = np.flatnonzero(row)
        assert (np.diff(given) == 1).all() and given[0] > 0 and given[-1] < 29
        assert not row[30:].any()
        assert 0.2 - 2 / 30 <= 1 - len(given) / 30 <= 0.8
