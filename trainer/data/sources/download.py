"""Downloads that end whole or not at all: mirrors in turn, retries, resumed after a cut, checked by sha256."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data.manifest import sha256_of
from trainer.data.spec import DataError

TIMEOUT_SECONDS = 30
ATTEMPTS = 3  # of one mirror without a byte of progress
BLOCK_BYTES = 1 << 16


class RemoteFile(NamedTuple):
    name: str
    num_bytes: int
    sha256: str


def download(
    file: RemoteFile,
    mirrors: Sequence[str],
    folder: Path,
    *,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetches `file` into `folder` from the first mirror that gives it whole.

    Args:
      file: its name, size in bytes and sha256.
      mirrors: URLs of folders.
      folder: made if missing; the file appears in it only when it is complete and its checksum is right.
      say: gets a line for each failure.
      sleep: waits between two attempts.

    Raises:
      DataError: no mirror gave it; the message holds the reason of each.
    """
    target = folder / file.name
    if target.is_file() and sha256_of(target) == file.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file.name}"
        part = folder / f"{file.name}.part"
        try:
            _download_with_retries(url, part, file.num_bytes, sleep)
            _check(part, file)
            return part.rename(target)
        except (OSError, http.client.HTTPException, DataError) as error:
            reasons.append(f"{url}: {error}")
            say(f"download failed: {reasons[-1]}")
    raise DataError(
        f"{file.name} could not be downloaded ({'; '.join(reasons)}); fetch it by hand and use --source_dir"
    )


def _download_with_retries(url: str, part: Path, num_bytes: int, sleep: Callable[[float], None]) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch_rest(url, part, num_bytes)
            if _size(part) >= num_bytes:
                return
            raise ConnectionError(f"the connection was cut at {_size(part):,} of {num_bytes:,} bytes")
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise  # This mirror will not give it at the next attempt either.
            failures += 1
            if failures == ATTEMPTS:
                raise
        except (OSError, http.client.HTTPException):
            failures = 0 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise
        sleep(2.0**failures)


def _fetch_rest(url: str, part: Path, num_bytes: int) -> None:
    """Appends what is missing, or begins again where the server does not know ranges."""
    start = _size(part)
    if start >= num_bytes:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        with part.open("ab" if resumed else "wb") as out:
            # One byte more than wanted is enough to see that the file is another one.
            room = num_bytes + 1 - (start if resumed else 0)
            while room > 0 and (block := response.read(min(BLOCK_BYTES, room))):
                out.write(block)
                room -= len(block)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(part: Path, file: RemoteFile) -> None:
    size = _size(part)
    digest = sha256_of(part) if size == file.num_bytes else ""
    if digest != file.sha256:
        part.unlink()
        got = f"sha256 {digest}" if digest else f"{size:,} bytes or more"
        raise DataError(f"got {got}, wanted {file.num_bytes:,} bytes of sha256 {file.sha256}")
