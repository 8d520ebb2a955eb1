"""A real browser, headless, for the tests of pages: Chromium, driven by playwright; where there is none, they skip."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SIZES = {"phone": (375, 800), "desktop": (1280, 900)}
"""Width and height of a window, in pixels."""
PATIENCE = 120_000
"""Milliseconds to wait for what must come, however busy the machine is."""


def chromium() -> str:
    """Return the program's path; a test that asks skips where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


@contextmanager
def browsing() -> Iterator[Any]:
    """Yield playwright's browser."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(browser: Any, size: str = "desktop", scheme: str = "light") -> Iterator[Any]:
    """Yield a page of a size and a colour scheme, and have no error of its scripts and no request to another host."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page, errors, away = context.new_page(), list[str](), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: away.append(request.url) if not _is_here(request.url) else None)
    try:
        yield page
        assert (errors, away) == ([], [])
    finally:
        context.close()


def _is_here(url: str) -> bool:
    return url.startswith(
        ("http://127.0.0.1", "http://localhost", "ws://127.0.0.1", "ws://localhost", "data:", "blob:", "file:")
    )


def sideways(page: Any) -> int:
    """Return by how many pixels a page is wider than its window: 0 where nothing has to be scrolled sideways."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
