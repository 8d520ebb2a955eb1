"""The site that docs/make_site.py builds: strictly, complete, and with nothing from elsewhere; the gallery's page is current."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browser import SIZES, browsing, page_of, sideways

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "link": "href"}


class Built(HTMLParser):
    """A built page: the files that it loads, its links, and the names in it that a link can lead to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded, self.links, self.ids = list[str](), list[str](), set[str]()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.ids |= {value for key in ("id", "name") if (value := told.get(key))}
        if (url := told.get(LOADED.get(tag, ""))) and told.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(url)
        if tag == "a" and (url := told.get("href")):
            self.links.append(url)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a built site, which shows a notebook that was run."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "run").mkdir()
    (folder / "run" / "first.ipynb").write_text(
        json.dumps(notebook("# The first\n\nOf $x^*$ and $y^*$.\n\n$$\\frac{a}{b}$$", "print(6 * 7)", "42\n"))
    )
    built = build(folder / "out", "--notebooks", str(folder / "run"))
    assert built.returncode == 0, built.stderr
    return folder / "out"


def build(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, DOCS / "make_site.py", *words], capture_output=True, text=True)


def notebook(text: str, code: str, printed: str) -> dict[str, Any]:
    output = {"name": "stdout", "output_type": "stream", "text": printed}
    told = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}
    typed = {"cell_type": "code", "execution_count": 1, "id": "b", "metadata": {}, "outputs": [output], "source": code}
    return {"cells": [told, typed], "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def pages(site: Path) -> dict[Path, Built]:
    return {file: Built(file) for file in site.rglob("*.html")}


def test_every_page_is_in_the_nav_once():
    nav = yaml.safe_load((DOCS / "mkdocs.yml").read_text())["nav"]

    def leaves(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry if isinstance(entry, list) else entry.values():
                yield from leaves(inner)

    found = sorted(leaves(nav))
    inside = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    examples = [
        page.relative_to(ROOT / "examples").as_posix() for page in (ROOT / "examples" / "plugins").rglob("README.md")
    ]
    assert found == sorted(["CHANGELOG.md", "CONTRIBUTING.md", *inside, *examples])


@pytest.mark.slow
def test_nothing_on_the_site_is_loaded_from_elsewhere(site):
    found = {(file.name, url) for file, page in pages(site).items() for url in page.loaded}
    assert len(found) > 200
    assert [it for it in found if urlsplit(it[1]).scheme not in ("", "data") or it[1].startswith("//")] == []
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert "url(http" not in styles
    assert "@import" not in styles


@pytest.mark.slow
def test_every_link_and_anchor_on_the_site_leads_somewhere(site):
    built, checked = pages(site), 0
    for file, page in built.items():
        for url in page.links:
            parts = urlsplit(url)
            if parts.scheme or file.name == "404.html":
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{file.name}: {url}"
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in built[target].ids | {"__skip"}, f"{file.name}: {url}"
            checked += 1
    assert checked > 2000


@pytest.mark.slow
def test_what_a_page_links_to_outside_docs_is_on_the_site(site):
    assert "recipes/digits-ddpm-text.yaml.html" in Built(site / "families.html").links
    assert "block_out_channels" in (site / "recipes" / "digits-ddpm-text.yaml.html").read_text()
    assert "The first" in (text := (site / "notebooks" / "first.html").read_text())
    assert "42" in text
    assert "<mfrac>" in text
    assert text.count("<mo>*</mo>") == 2  # not the ends of an emphasis
    assert "READ FIRST" in (site / "architecture.html").read_text()


def test_the_gallery_is_made_of_its_entries(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import make_gallery

    page = make_gallery.page()
    assert (DOCS / "gallery.md").read_text() == page, "run: python docs/make_gallery.py --page"
    entries = {file.stem for file in (DOCS / "gallery").glob("*.json")}
    assert {file.stem for file in (DOCS / "gallery").glob("*.png")} == entries
    assert all((DOCS / "gallery" / f"{name}.png").stat().st_size < 100_000 for name in entries)
    for name in make_gallery.in_order():
        assert name in page
        assert (f"### {name}\n" in page) == (make_gallery.entry(name) is not None)


def test_a_recipe_that_changed_is_not_shown_with_old_figures(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(DOCS)
    import make_gallery

    monkeypatch.setattr(make_gallery, "GALLERY", tmp_path)
    figures = {"model": "vae", "figure": "frechet_distance", "n": 1000, "value": 2.5, "interval": [2.0, 3.0], "floor": 1.25,
               "steps": 2500, "seconds": 75.0, "machine": {"threads": 2}}  # fmt: skip
    for digest, told in (
        (
            make_gallery.digest("digits-vae"),
            "Frechet distance 2.5 (2 to 3, real rows 1.25), 1,000 rows drawn;\n2,500 steps in 1 min 15 s on 2 threads.",
        ),
        ("another", "`python docs/make_gallery.py digits-vae`: changed since it was measured"),
    ):
        (tmp_path / "digits-vae.json").write_text(json.dumps(figures | {"recipe": digest}))
        assert told in make_gallery.page()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_site_on_a_phone_and_a_desk(site, scheme):
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browsing() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for size in SIZES:
            for name in ("index", "gallery", "howto/folder-of-photos", "architecture", "notebooks/first"):
                with page_of(browser, size, scheme) as page:
                    page.goto(f"http://127.0.0.1:{server.server_port}/{name}.html")
                    assert sideways(page) == 0, (size, name)
        with page_of(browser, "desktop", scheme) as page:
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            page.fill("input.md-search__input", "resume")
            page.wait_for_selector("a.md-search-result__link")
            found = " ".join(page.locator("a.md-search-result__link").all_inner_texts())
            assert "killed" in found
        server.shutdown()
