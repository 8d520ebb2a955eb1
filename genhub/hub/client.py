"""Client of the Hub: huggingface_hub's, quiet, with bounded retries, its errors one line with what to do. No torch here."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from genhub.errors import HubError, HubUnavailable
from genhub.ground.ids import nearest_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi


DELAYS = (1.0, 2.0, 4.0)
"""Seconds before each further try of a request."""
LONGEST_WAIT = 30.0
"""The most seconds to wait when the Hub says how long (Retry-After)."""
REPEATABLE = (408, 425, 429, 500, 502, 503, 504)
MOVED_ON = "somebody else pushed to it meanwhile; nothing was changed. Look at it, then push again to go on from there"
T = TypeVar("T")


@dataclass(frozen=True)
class Client:
    """Client that asks the Hub about one repository."""

    api: HfApi
    cache: Path
    """Folder where the client keeps what it fetches."""
    offline: bool
    """Whether HF_HUB_OFFLINE forbids asking the Hub."""
    repo_id: str
    doing: str
    """The work under way, for messages: fetching x, pushing."""
    revision: str | None

    def retrying(self, request: Callable[[], T]) -> T:
        """Make a request, again after a while where that may help.

        Raises:
            HubError: what is wrong, in one line.
        """
        import httpx2
        from huggingface_hub import close_session

        for delay in (*DELAYS, None):
            try:
                return request()
            except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError, RuntimeError) as caught:
                # A RuntimeError is what the client makes of whatever ends an upload.
                cause = caught.__cause__ if type(caught) is RuntimeError else None
                error = cause if isinstance(cause, Exception) else caught
                wait = _wait(error, delay)
                if wait is None:
                    raise self.explained(error) from error
            close_session()  # a kept-alive connection to a Hub that is gone fails for ever
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def explained(self, error: Exception) -> HubError:
        """Return the client's error as one line that says what to do; never the token."""
        import httpx2
        from huggingface_hub import errors

        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else 0
        transport = isinstance(cause, httpx2.HTTPError | httpx2.StreamError) and not status
        away = transport or status in REPEATABLE or isinstance(cause, errors.OfflineModeIsEnabled)
        kind = HubUnavailable if away else HubError
        return kind(f"{self.repo_id}: {self._in_words(cause, status, transport)}")

    def _in_words(self, cause: BaseException, status: int, transport: bool) -> str:
        from huggingface_hub import errors, get_token

        hub, doing, said = f"the Hub ({self.api.endpoint})", self.doing, _said(cause, self.api)
        page, login = f"{self.api.endpoint}/{self.repo_id}", "`hf auth login`"
        match cause:
            case errors.OfflineModeIsEnabled():
                return "the Hub is not asked (HF_HUB_OFFLINE is set)"
            case errors.GatedRepoError():
                return f"is gated; ask for access at {page}, then log in with {login}"
            case errors.RevisionNotFoundError():
                return f"has no branch, tag or commit '{self.revision}'; {page}/tree/main lists them"
            case errors.RemoteEntryNotFoundError():
                return f"{doing}: the file is not there any more; try again"
            case errors.RepositoryNotFoundError():
                found = f"no such folder, and no such model on {hub}, or it is private and not yours to see"
                return f"{found}; check the name, or log in with {login}{nearest_path(Path(self.repo_id))}"
            case errors.FileMetadataError():
                return f"{doing}: {hub} does not say which commit a file is of{said}"
        match status:
            case 401 if self.api.token is None and get_token() is None:
                return f"{doing} needs a login: {login}, or set HF_TOKEN"
            case 401:
                return f"{hub} does not know your token (401); log in with {login}, or set HF_TOKEN"
            case 403:
                return f"no access (403{said}); {doing} needs a token with that right: {login}"
            case 412:
                return MOVED_ON
        if status:
            again = ", again and again; try later" if status in REPEATABLE else ""
            return f"{doing}: {hub} answers {status}{said}{again}"
        if "xet-write-token" in said:
            return f"{doing}: {hub} has no Xet storage; set HF_HUB_DISABLE_XET=1"
        name = type(cause).__name__
        return f"{doing}: {hub} can't be reached ({name}{said})" if transport else f"{doing}: {name}{said}"


def _said(error: BaseException, api: HfApi) -> str:
    """Return `: ` and the message of the Hub or of the client, on one line, without the token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    text = (error.server_message or "") if isinstance(error, HfHubHTTPError) else str(error)
    for secret in (api.token, get_token()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    text = "".join(char if char.isprintable() else " " for char in text.strip().partition("\n")[0])
    return f": {text:.200}" if text else ""


def _wait(error: Exception, delay: float | None) -> float | None:
    """Return the seconds until a further try; None where none would help."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if delay is None or isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):  # the client tried for itself
        return None
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in REPEATABLE:
            return None
        named = error.response.headers.get("Retry-After", "")
        wait = max(delay, float(named)) if named.isdecimal() else delay
        return wait if wait <= LONGEST_WAIT else None
    return delay if isinstance(error, httpx2.HTTPError | httpx2.StreamError) or "onsistency check" in str(error) else None


_quiet = threading.Lock()
_users = 0
_before = (0, False)


@contextlib.contextmanager
def connect(repo_id: str, token: str | None, doing: str, revision: str | None = None) -> Iterator[Client]:
    """Give huggingface_hub's client, which prints nothing by itself meanwhile but its bars on a terminal.

    Its log and its bars are switched for the whole process: the first of several threads switches them, the last back.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    global _users, _before
    with _quiet:
        if _users == 0:
            _before = hub_logging.get_verbosity(), are_progress_bars_disabled()
            hub_logging.set_verbosity(logging.ERROR)
            if not (sys.stderr.isatty() and threading.current_thread() is threading.main_thread()):
                disable_progress_bars()
        _users += 1
    try:
        api, cache = HfApi(token=token, library_name="genhub"), Path(constants.HF_HUB_CACHE).expanduser()
        yield Client(api, cache, constants.HF_HUB_OFFLINE, repo_id, doing, revision)
    finally:
        with _quiet:
            _users -= 1
            if _users == 0:
                hub_logging.set_verbosity(_before[0])
                if not _before[1]:
                    enable_progress_bars()
