"""`genhub watch`: what the page asks for by real HTTP; and the page itself, in a browser, on runs that train, end and crash."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from browser import browsing, page_of, sideways
from PIL import Image
from test_trainer import pair, wait_for
from typer.testing import CliRunner

import genhub
from genhub.cli import app
from genhub.ground.disk import append, last_owner, locked, write_whole
from genhub.ground.run_log import read_metrics
from genhub.watch.holder import holder_of
from genhub.watch.http_api import Server
from genhub.watch.log_tail import LogTail
from genhub.watch.watched import steps_per_second
from genhub.watch.watching import Watch, runs_in

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals")
LINE = {"fit/loss": 0.5, "seconds": 1.0, "rows_per_second": 64.0}


def line(step: int, **values: Any) -> str:
    return json.dumps({"step": step, **LINE, "seconds": step / 10} | values)


def made(folder: Path, logged: int = 30, saved: tuple[int, ...] = (20,), max_steps: int = 40) -> Path:
    """The files of a run: a line of its log each ten steps, a picture a checkpoint."""
    (folder / "samples").mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "recipe.yaml").write_text(
        f"model: {{name: vae}}\ntrainer: {{max_steps: {max_steps}}}\nrun_dir: {folder.name}\n"
    )
    (folder / "metrics.jsonl").write_text("".join(line(step) + "\n" for step in range(10, logged + 1, 10)))
    for step in saved:
        (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
        Image.new("L", (8, 8), step).save(folder / "samples" / f"step-{step:06d}.png")
    return folder


class Client:
    """A browser's side: each call is a request of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def request(self, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content, dict(answer.getheaders())

    def ask(self, call: str, method: str = "GET", status: int = 200, **values: Any) -> Any:
        found, content, _ = self.request(method, f"/api/{call}?{urlencode(values | {'key': self.server.key})}")
        assert found == status, content
        return json.loads(content)

    def runs(self) -> dict[str, dict[str, Any]]:
        return {Path(facts["name"]).name: facts for facts in self.ask("runs")}


@contextmanager
def serving(*paths: Path, waiting: bool = False) -> Iterator[Client]:
    server = Server(Watch(paths, waiting), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Client(server)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# The states of a run


def test_how_a_run_has_ended_is_told_by_its_files(tmp_path: Path) -> None:
    made(tmp_path / "finished", 40, (20, 40))
    made(tmp_path / "stopped", 20, (20,))
    made(tmp_path / "crashed", 30, (20,))
    made(tmp_path / "lost", 10, ())
    (made(tmp_path / "elsewhere") / ".owner").write_text("process 7 on another-machine")
    (made(tmp_path / "gone", 20) / ".owner").write_text(f"process {2**22 + 1} on {socket.gethostname()}")
    with serving(tmp_path) as client:
        found = client.runs()
    assert {name: (facts["state"], facts["said"]) for name, facts in found.items()} == {
        "finished": ("finished", "trained to step 40"),
        "stopped": ("stopped", "stopped, and saved; the same command goes on from step 20"),
        "crashed": ("crashed", "ended after step 30 without saving; the same command goes on from step 20"),
        "lost": ("crashed", "ended before its first checkpoint; the same command starts over"),
        "elsewhere": (
            "elsewhere",
            "process 7 on another-machine held it last; whether it still does can't be seen from here",
        ),
        "gone": ("stopped", "stopped, and saved; the same command goes on from step 20"),
    }
    assert found["elsewhere"]["how_to_stop"] == "Ctrl-C, or kill 7"
    facts = found["crashed"]
    assert (facts["step"], facts["steps"], facts["pictures"], facts["can_stop"]) == (30, 40, [20], False)
    assert facts["recipe"] == {"model.name": "vae", "trainer.max_steps": "40"}
    assert (facts["metrics"], facts["chosen"]) == (["fit/loss", "seconds", "rows_per_second"], ["fit/loss"])


@posix
def test_a_process_that_holds_the_folder_trains_it(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with serving(run) as client:
        with locked(run):
            assert last_owner(run) == (os.getpid(), socket.gethostname())
            (facts,) = client.ask("runs")
            assert (facts["state"], facts["can_stop"]) == ("running", True)
            assert facts["seconds_left"] == pytest.approx(1.0)  # 10 steps at ten a second
        assert client.ask("runs")[0]["state"] == "crashed"
        assert holder_of(run) is None  # this process is alive, and has let go


@posix
def test_the_holder_is_stopped_once_and_nobody_else(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    code = (
        "import signal, sys, time\nfrom pathlib import Path\nfrom genhub.ground.disk import locked\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with serving(run) as client:
        client.ask("runs")
        assert client.ask("stop", "POST", 409, run=0)["said"] == f"{run}: nothing trains here"
        holder = subprocess.Popen(
            [sys.executable, "-c", code, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        assert client.ask("stop", "POST", run=0)["said"] == f"process {holder.pid} was asked to save and to stop"
        assert holder.stdout.readline() == "told\n"
        (facts,) = client.ask("runs")
        assert (facts["state"], facts["can_stop"]) == ("stopping", False)
        assert "would keep it from saving" in client.ask("stop", "POST", 409, run=0)["said"]
        assert holder.communicate("")[0] == ""  # told once
        assert client.ask("runs")[0]["state"] == "crashed"
        (run / ".owner").write_text("process 1 on another-machine")
        assert "kill 1" in client.ask("stop", "POST", 409, run=0)["said"]


# The log, as it grows


def test_only_new_lines_are_sent_and_a_log_that_was_cut_is_sent_anew(tmp_path: Path) -> None:
    run = made(tmp_path / "run", 30)
    log = run / "metrics.jsonl"
    with serving(run) as client:
        client.ask("runs")
        first = client.ask("log", run=0, generation=0, since=0)
        assert [one["step"] for one in first["lines"]] == [10, 20, 30]
        append(log, line(40, **{"fit/loss": float("nan")}))
        with log.open("a") as stream:
            stream.write('{"step": 50, "fit/l')
        assert client.ask("runs")[0]["log"] == {"generation": 0, "lines": 4}
        (new,) = client.ask("log", run=0, generation=0, since=3)["lines"]
        assert (new["step"], new["fit/loss"]) == (40, None)
        kept = log.read_bytes().splitlines(keepends=True)[:2]
        write_whole(log, b"".join(kept))  # as a run that goes on from step 20
        append(log, line(30, seconds=4.5))
        facts = client.ask("runs")[0]
        assert facts["log"] == {"generation": 1, "lines": 3}
        again = client.ask("log", run=0, generation=0, since=3)
        assert (again["generation"], again["since"], [one["seconds"] for one in again["lines"]]) == (1, 0, [1.0, 2.0, 4.5])
        for values in ({"generation": "x", "since": 0}, {"generation": 1, "since": -1}, {"generation": 1}):
            assert "whole number" in client.ask("log", status=400, run=0, **values)["said"]


def test_a_log_is_read_by_the_rules_of_all_verbs_wherever_it_is_cut(tmp_path: Path) -> None:
    file, grown = tmp_path / "metrics.jsonl", tmp_path / "grown.jsonl"
    file.write_bytes(b"\n".join([line(1).encode(), b"\0" * 9, b"", line(2).encode(), b'{"step": true}', line(3).encode()]))
    content, (whole, fault) = file.read_bytes(), read_metrics(file)
    for cut in range(0, len(content), 7):
        grown.write_bytes(content[:cut])
        tail = LogTail(grown)
        tail.look()
        assert tail.lines == read_metrics(grown)[0]
        grown.write_bytes(content)
        tail.look()
        assert (tail.lines, tail.generation) == (whole, 0)
        assert tail.fault == (fault or "").replace(str(file), str(grown))
    grown.unlink()
    tail.look()
    assert (tail.lines, tail.generation) == ([], 1)


def test_speed_is_that_of_the_newest_lines() -> None:
    assert steps_per_second([]) is None
    assert steps_per_second([{"step": 1.0, "seconds": 1.0}]) is None
    assert steps_per_second([{"step": 1.0, "seconds": 1.0}, {"step": 1.0}, {"step": 5.0, "seconds": 3.0}]) == 2.0
    slow_then_fast = [{"step": float(step), "seconds": min(step, 100) + step / 100} for step in range(200)]
    assert steps_per_second(slow_then_fast) == pytest.approx(100)


# What lies in a folder


def test_damage_is_said_and_the_others_are_shown(tmp_path: Path) -> None:
    made(tmp_path / "well")
    damaged = made(tmp_path / "damaged")
    (damaged / "recipe.yaml").write_text("model: [")
    (damaged / "metrics.jsonl").write_bytes(b"\0\0\n" + line(10).encode() + b"\n")
    (damaged / "evaluations").mkdir()
    (damaged / "evaluations" / "step-000010-0123456789ab-0123456789ab.json").write_text("{")
    with serving(tmp_path) as client:
        found = client.runs()
        notes = " ".join(found["damaged"]["notes"])
        assert "line 1 is damaged" in notes
        assert "recipe.yaml" in notes
        assert "step-000010-0123456789ab-0123456789ab.json" in notes
        assert (found["well"]["notes"], found["damaged"]["log"]["lines"], found["damaged"]["steps"]) == ([], 1, None)
        shutil.rmtree(damaged)
        made(tmp_path / "sweep" / "lr=0.1")  # begun meanwhile, in a sweep's folder
        assert list(client.runs()) == ["lr=0.1", "well"]
        assert client.ask("log", status=404, run=found["damaged"]["run"], generation=0, since=0)["said"]


@posix
def test_what_lies_outside_a_run_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("L", (8, 8)).save(secret)
    run = made(tmp_path / "runs" / "run")
    with serving(run) as client:
        client.ask("runs")
        (run / "samples" / "step-000030.png").symlink_to(secret)
        os.mkfifo(run / "samples" / "step-000040.png")
        (run / "samples" / "step-000050.png").write_text("no picture")
        for step in (10, 30, 40, 50):
            assert client.ask("picture", status=404, run=0, step=step)["said"] == "there is no such picture"
        for step in ("../../secret", "20/../20", "", "20.png"):
            assert "whole number" in client.ask("picture", status=400, run=0, step=step)["said"]
        for name in ("..", str(tmp_path), "1", ""):
            assert client.ask("picture", status=404, run=name, step=20)["said"]
        for path in ("/../secret.png", "/api/../page.py", "/page/index.html", "/api/recipe", "/etc/passwd"):
            status, content, _ = client.request("GET", f"{path}?key={client.server.key}")
            assert (status, b"no such page" in content) == (404, True)
        status, content, headers = client.request("GET", f"/api/picture?run=0&step=20&key={client.server.key}")
        assert (status, content) == (200, (run / "samples" / "step-000020.png").read_bytes())
        assert headers["Content-Type"] == "image/png"
    linked = made(tmp_path / "linked")
    (linked / "metrics.jsonl").unlink()
    (linked / "metrics.jsonl").symlink_to(secret)
    with serving(linked) as client:
        (facts,) = client.ask("runs")
        assert (facts["state"], facts["metrics"]) == ("unreadable", [])
        assert "link that leads out" in facts["said"]


def test_runs_are_found_where_they_lie(tmp_path: Path) -> None:
    for name in ("b", "a", "sweep/lr=1", "bench/vae/seed-0", ".hidden/run", "a/inside"):
        made(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    assert [str(path.relative_to(tmp_path)) for path in runs_in(tmp_path)] == ["a", "b", "bench/vae/seed-0", "sweep/lr=1"]
    assert list(runs_in(tmp_path / "a")) == [tmp_path / "a"]
    with serving(tmp_path / "a" / "checkpoints" / "step-000020", tmp_path / "a") as client:  # one run, named twice
        assert list(client.runs()) == ["a"]


# Who may ask


def test_only_this_machines_page_may_ask(tmp_path: Path) -> None:
    with serving(made(tmp_path / "run")) as client:
        key, port = client.server.key, client.server.server_port
        own = f"http://127.0.0.1:{port}"
        for headers, status in [
            ({}, 200), ({"Host": f"localhost:{port}"}, 200), ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
            ({"Origin": own}, 200), ({"Host": f"evil.example:{port}"}, 403), ({"Host": ""}, 403), ({"Origin": "null"}, 403),
            ({"Origin": "http://evil.example"}, 403), ({"Origin": "http://127.0.0.1:1"}, 403),
        ]:  # fmt: skip
            assert client.request("GET", f"/api/runs?key={key}", headers)[0] == status, headers
        for query in ("", "?key=", f"?key={key}x", "?key=%ff"):
            for method, call in (("GET", "runs"), ("POST", "stop")):
                assert client.request(method, f"/api/{call}{query}")[0] == 403
        assert client.request("GET", f"/api/stop?run=0&key={key}")[0] == 404  # a link can't stop anything
        for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/style.css", "text/css")):
            status, content, headers = client.request("GET", path)
            assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
            assert "script-src 'self'" in headers["Content-Security-Policy"]
            assert key.encode() not in content
        _, _, headers = client.request("GET", f"/api/runs?key={key}")
        again = client.request("GET", f"/api/runs?key={key}", {"If-None-Match": headers["ETag"]})
        assert again[:2] == (304, b"")


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = Path(genhub.__file__).parent / "watch" / "page"
    texts = {file.name: file.read_text() for file in page.iterdir()}
    assert sorted(texts) == ["charts.js", "index.html", "page.js", "style.css"]
    for text in texts.values():
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in text


# The verb


def test_mistakes_are_answered_in_a_line(tmp_path: Path) -> None:
    made(tmp_path / "digits")
    (tmp_path / "empty").mkdir()
    with serving(tmp_path) as client:
        port = client.server.server_port
        for words, said in (
            ([str(tmp_path / "digit")], f"{tmp_path / 'digit'}: no such folder; did you mean '{tmp_path / 'digits'}'?"),
            ([str(tmp_path / "empty")], f"{tmp_path / 'empty'}: neither a run's folder, nor one with runs in it"),
            ([str(tmp_path / "digits"), "--port", str(port)], f"--port {port}: Address already in use; choose another, or --port 0 for a free one"),
        ):  # fmt: skip
            result = CliRunner().invoke(app, ["watch", *words])
            assert isinstance(result.exception, genhub.InputError), result.output
            assert str(result.exception) == said


@posix
def test_it_starts_without_torch_or_any_run_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    code = (
        "import sys, threading\nsys.argv = ['genhub', 'watch', '--port', '0']\nfrom genhub.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'torch', 'numpy', 'datasets', 'accelerate'} & set(sys.modules)))\n"
    )
    watch = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert watch.stdout
    address = watch.stdout.readline().split()[1]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#[\w-]{16}", address)
    assert watch.stdout.readline() == "         for this machine alone; Ctrl-C ends it, and no run\n"
    host, _, key = address.removeprefix("http://").partition("/#")
    for expected in ([], ["runs/run"]):
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("GET", f"/api/runs?key={key}")
        assert [facts["name"] for facts in json.loads(connection.getresponse().read())] == expected
        connection.close()
        if not expected:
            made(tmp_path / "runs" / "run")
    watch.send_signal(signal.SIGINT)
    out, err = watch.communicate(timeout=60)
    assert (watch.returncode, out) == (130, "[]\n")
    assert err == "genhub: stopped by SIGINT; the runs go on, and the same command shows them again\n"


# In a browser


def until(page: Any, expression: str) -> None:
    """Wait for an expression to be true; playwright's own wait evaluates it in the page, whose security policy forbids that."""
    wait_for(lambda: page.evaluate(expression))


def address_of(job: Any) -> str:
    wait_for(lambda: "Page" in job.out or job.poll() is not None)
    return job.out.split()[1]


@posix
@pytest.mark.slow
def test_a_run_that_trains_is_followed_stopped_gone_on_with_and_crashes(tiny: dict, tmp_path: Path, zygote: Any) -> None:
    """The button saves a checkpoint in another process, and the same command goes on."""
    recipe = pair(tiny, max_steps=10**6, log_every=20, sample_every=200, save_every=10**6) | {"run_dir": "runs/live"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    run, url = tmp_path / "runs" / "live", address_of(zygote.genhub("watch", "--port", "0", cwd=tmp_path))
    with browsing() as browser, page_of(browser) as page:
        page.goto(url)
        until(page, "document.getElementById('status').textContent.startsWith('No run yet')")
        training = zygote.genhub("train", "r.yaml", cwd=tmp_path)
        points = "Number(document.querySelector('[data-metric=\"generator/loss\"] path.curve')?.dataset.points || 0)"
        until(page, f"{points} > 1")
        before = page.evaluate(points)
        until(page, f"{points} > {before}")
        assert re.match(r"running · step [\d,]+ of 1,000,000 · [\d,.]+ rows/s · .* left", page.inner_text(".doing"))

        until(page, "Number(document.getElementById('picture-step').max) >= 1")
        until(page, "document.querySelector('#pictures img').naturalWidth > 0")
        newest = page.get_attribute("#pictures img", "src")
        page.focus("#picture-step")
        page.keyboard.press("Home")
        assert "step=200&" in page.get_attribute("#pictures img", "src") != newest
        most = int(page.get_attribute("#picture-step", "max"))
        until(page, f"Number(document.getElementById('picture-step').max) > {most}")
        assert "step=200&" in page.get_attribute("#pictures img", "src")  # stays where it was put, as newer ones come
        page.focus("#picture-step")
        page.keyboard.press("End")
        assert page.inner_text("#picture-value").endswith("the newest")

        page.once("dialog", lambda dialog: dialog.dismiss())
        page.click(".stop")
        assert training.poll() is None
        page.once("dialog", lambda dialog: dialog.accept())
        page.click(".stop")
        assert training.wait() == 143
        said = re.search(r"stopped at step (\d+); the same command goes on from there", training.err)
        assert said, training.err
        step = int(said[1])
        assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{step:06d}"]
        page.wait_for_selector(".run.stopped", timeout=60_000)
        assert page.inner_text(".said") == f"stopped, and saved; the same command goes on from step {step:,}"
        assert page.is_hidden(".stop")

        again = zygote.genhub("train", "r.yaml", cwd=tmp_path)
        page.wait_for_selector(".run.running", timeout=60_000)
        wait_for(lambda: f"step {(step // 20 + 3) * 20}/" in again.out or again.poll() is not None)
        assert f"resuming at step {step}" in again.out
        again.signal(signal.SIGKILL)
        page.wait_for_selector(".run.crashed", timeout=60_000)
        assert f"without saving; the same command goes on from step {step:,}" in page.inner_text(".said")
        lines = len(read_metrics(run / "metrics.jsonl")[0])
        until(page, f"{points} === {lines}")


EVIL = "<img src=x onerror=boom()>"


@pytest.mark.slow
def test_runs_over_one_another_and_what_differs(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module_cache: None
) -> None:
    """Finished runs, one whose folder's and recipe's names are HTML; at both sizes, in both schemes."""
    monkeypatch.chdir(tmp_path)
    recipe = pair(tiny, log_every=1, sample_every=3)
    recipe["evaluate"] = {"every": 3, "n": 16, "extractor": "pixels"}
    genhub.train(recipe, run_dir="runs/one")
    genhub.train(recipe, ["seed=5", "trainer.optimizer.lr=0.5"], run_dir=f"runs/{EVIL}")
    with (tmp_path / "runs" / EVIL / "recipe.yaml").open("a") as stream:
        stream.write(f"{json.dumps('<b>own</b>')}: {json.dumps(EVIL)}\n")
    append(tmp_path / "runs" / EVIL / "metrics.jsonl", json.dumps({"step": 6, f"{EVIL}/loss": 1.0}))
    with serving(Path("runs")) as client, browsing() as browser:
        for size in ("phone", "desktop"):
            for scheme in ("light", "dark"):
                with page_of(browser, size, scheme) as page:
                    page.goto(client.server.address)
                    until(page, "document.querySelectorAll('#pictures img').length === 2")
                    assert sideways(page) == 0
                    page.click("#metrics summary")
                    assert sideways(page) == 0
        with page_of(browser) as page:
            page.goto(client.server.address)
            until(page, "document.querySelectorAll('#pictures img').length === 2")
            assert page.locator(".run.finished").count() == 2
            assert sorted(page.locator(".name").all_inner_texts()) == sorted([f"runs/{EVIL}", "runs/one"])
            assert page.locator("img:not(#pictures img), #recipes b").count() == 0  # names are text
            table = [row.split("\t") for row in page.inner_text("#recipes").splitlines()]
            assert table[0] == ["key", f"runs/{EVIL}", "runs/one"]
            assert table[1:] == [["trainer.optimizer.lr", "0.5", "0.001"], ["seed", "5", "0"], ["<b>own</b>", EVIL, "–"]]
            figures = [row.split("\t") for row in page.inner_text("#figures").splitlines()]
            assert figures[0] == ["run", "step", "measured", "by", "frechet distance"]
            stored = {one["name"]: one["figures"][0]["values"]["frechet_distance"] for one in client.ask("runs")}
            assert [[row[0], row[1], row[2], row[4]] for row in figures[1:]] == [
                [name, "6", "A", stored[name]] for name in stored
            ]

            charts = page.locator("#charts .chart h3").all_inner_texts()
            assert charts == ["generator/loss", "critic/loss", "penalty/loss", "evaluate/frechet_distance", f"{EVIL}/loss"]
            loss = page.locator('[data-metric="critic/loss"]')
            assert loss.locator("path.curve").count() == 2
            dashes = loss.locator("path.curve").evaluate_all("all => all.map((one) => one.getAttribute('stroke-dasharray'))")
            assert len(set(dashes)) == 2  # told apart without colour
            at_first = loss.locator("path.curve").first.get_attribute("d")
            page.select_option("#axis", "seconds")
            by_seconds = loss.locator("path.curve").first.get_attribute("d")
            page.check("#log")
            logarithmic = loss.locator("path.curve").first.get_attribute("d")
            page.focus("#smoothing")
            page.keyboard.press("End")
            assert loss.locator("path.raw").count() == 2
            assert page.locator('[data-metric="evaluate/frechet_distance"] path.raw').count() == 0  # a figure is what it is
            assert len({at_first, by_seconds, logarithmic, loss.locator("path.curve").first.get_attribute("d")}) == 4
            loss.locator("svg").hover()
            assert re.match(r"seconds [\d.e-]+: runs/<img .*; runs/one [\d.]+$", loss.locator("figcaption").inner_text())
            page.click("#metrics summary")
            page.uncheck('#metric-list input[value="critic/loss"]')
            page.check('#metric-list input[value="critic/real"]')
            assert "critic/real" in page.locator("#charts .chart h3").all_inner_texts()
            assert "critic/loss" not in page.locator("#charts .chart h3").all_inner_texts()
            page.uncheck(".run input >> nth=0")
            until(page, "document.querySelectorAll('#pictures img').length === 1")
            assert page.locator('[data-metric="critic/real"] path.curve').count() == 1
            assert page.is_hidden("#recipes")
            shutil.rmtree(tmp_path / "runs" / "one")
            until(page, "document.querySelectorAll('.run').length === 1")
        with page_of(browser) as page:
            page.goto(client.server.address.partition("#")[0])
            until(page, "document.getElementById('status').textContent.includes('it has a key')")


@posix
@pytest.mark.slow
def test_of_several_processes_the_launcher_is_told(tiny: dict, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(pair(tiny, max_steps=10**5, save_every=20, log_every=1000)))
    run, env = Path(tiny["run_dir"]), os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    words = [sys.executable, "-m", "genhub", "train", "r.yaml", "--num-processes", "2"]
    command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path)
    wait_for(lambda: (run / "checkpoints" / "step-000020").exists() or command.poll() is not None)
    with serving(run) as client:
        (facts,) = client.ask("runs")
        assert facts["state"] == "running"
        assert str(command.pid) not in facts["said"]  # the first of its processes holds the folder
        assert client.ask("stop", "POST", run=0)["said"] == f"process {command.pid} was asked to save and to stop"
        _, errors = command.communicate(timeout=240)
        assert command.returncode == 143, errors
        assert re.search(r"stopped at step \d+; the same command goes on from there", errors)
        assert client.ask("runs")[0]["state"] == "stopped"


def test_the_pages_commands_and_options_are_right() -> None:
    page = (Path(__file__).parents[1] / "docs" / "watch.md").read_text()
    commands = re.findall(r"^genhub watch(.*?)(?:#.*)?$", page, re.MULTILINE)
    assert len(commands) == 3
    options = CliRunner().invoke(app, ["watch", "--help"]).output
    assert all(word in options for command in commands for word in command.split() if word.startswith("-"))
    assert "[default: 6070" in options
    assert "ssh -L 6070:127.0.0.1:6070" in page
