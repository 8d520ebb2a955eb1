"""Push a run's checkpoints while it trains."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

from genhub.errors import GenhubError, without_passwords
from genhub.ground.background import in_background
from genhub.ground.console import warn
from genhub.ground.disk import link
from genhub.hub.push import Target
from genhub.recipe.sections import HubConfig
from genhub.run.publish import push_checkpoint
from genhub.store.manifest import TRAINER_PART, Manifest, read_manifest
from genhub.store.run_folder import RunFolder

LAST_PUSH = 600.0
"""Seconds that a run which is done waits for its last push."""
STOPPED_PUSH = 5.0
"""Seconds that a run which is stopped waits for a push under way."""


# While a run trains


class Publisher:
    """Thread that pushes a run's checkpoints. The run never waits for it but at its end, and a push that
    fails is a warning. Checkpoints that come while one is pushed wait, and only the newest of them is pushed."""

    def __init__(self, config: HubConfig, run: RunFolder) -> None:
        self.config = config
        self._stage = run.stage
        self._last_step: int | None = None
        self._waiting: Path | None = None
        self._closed = False
        self._turn = threading.Condition()
        shutil.rmtree(self._stage, ignore_errors=True)
        self._pushing = in_background(self._work, "genhub-push", daemon=True)

    def offer(self, folder: Path, last: bool) -> None:
        """Take note of a new checkpoint; it may be deleted once this returns."""
        step = read_manifest(folder).step
        every = self.config.every
        if not last and every is not None and step // every == (self._last_step or 0) // every:
            return
        self._last_step = step
        try:
            self._stage.mkdir(exist_ok=True)
            staged = Path(tempfile.mkdtemp(dir=self._stage)) / folder.name
            shutil.copytree(folder, staged, copy_function=link, symlinks=True, ignore=shutil.ignore_patterns(TRAINER_PART))
        except OSError as error:
            warn(f"{self.config.repo_id}: step {step} is not pushed: {error}")
            return
        with self._turn:
            self._waiting = staged
            self._turn.notify()

    def close(self, seconds: float) -> None:
        """Wait for the newest checkpoint's push, but not for ever."""
        with self._turn:
            self._closed = True
            self._turn.notify()
        try:
            self._pushing.result(seconds)
        except TimeoutError:
            warn(f"{self.config.repo_id}: the last push is not done after {seconds:.0f} s; genhub push finishes it")
        else:
            shutil.rmtree(self._stage, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._closed)
                staged, self._waiting = self._waiting, None
            if staged is None:
                return
            try:
                files = read_manifest(staged).files
                kept = {name: entry for name, entry in files.items() if not name.startswith(f"{TRAINER_PART}/")}
                Manifest.verify_files(kept, staged)
                config = self.config
                target = Target(config.repo_id, config.private, config.revision, license=config.license)
                push_checkpoint(staged, target)
            except GenhubError as error:
                warn(f"{error}; the run goes on")
            except Exception as error:  # whatever it is, it is no reason to stop a run
                reason = without_passwords(f"{type(error).__name__}: {error}")
                warn(f"{self.config.repo_id}: {staged.name} is not pushed: {reason}; the run goes on")
