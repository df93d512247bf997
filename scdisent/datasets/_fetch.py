"""Files of the data sets: looked up in a local folder, else downloaded once and kept."""

import functools
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pooch
import requests
from tqdm.auto import tqdm

from scdisent._errors import DownloadError, OptionError, ScDisentWarning
from scdisent.datasets._cards import Card, CardFile

LOCAL_ENV = "SCDISENT_DATA_DIR"
CACHE_ENV = "SCDISENT_CACHE_DIR"
TIMEOUT = 30.0
"""Seconds without a byte after which an address counts as failed."""
PAUSE = 0.5
"""Seconds before the second attempt at one address; later pauses are multiples of it."""


class Check(NamedTuple):
    """Outcome of comparing a file with its card."""

    status: str
    """``ok``, ``missing``, ``size differs``, ``hash differs`` or ``hash unknown``."""
    expected: str = ""
    found: str = ""


def local_folder(data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Folder that is looked at before any download: ``data_dir``, else ``SCDISENT_DATA_DIR``.

    Raises
    ------
    OptionError
        If it is given but does not exist.
    """
    given = data_dir if data_dir is not None else os.environ.get(LOCAL_ENV)
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        name = "data_dir" if data_dir is not None else f"the environment variable {LOCAL_ENV}"
        msg = f"{name} should be a folder with data files, but {str(folder)!r} is none."
        raise OptionError(msg)
    return folder


def cache_folder() -> Path:
    """Folder that keeps downloads: ``SCDISENT_CACHE_DIR``, else the user's cache folder."""
    return Path(os.environ.get(CACHE_ENV) or pooch.os_cache("scdisent")).expanduser()


def find(file: CardFile, *, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Where a file lies already, local folder first; its content is not looked at."""
    folder = local_folder(data_dir)
    places = [cache_folder()] if folder is None else [folder, cache_folder()]
    return next((place / file.path for place in places if (place / file.path).is_file()), None)


def check(path: Path, file: CardFile) -> Check:
    """Compare a file with its card.

    A hash is computed once per process for a file of unchanged size and time.
    """
    stat = path.stat()
    if file.bytes is not None and stat.st_size != file.bytes:
        return Check("size differs", f"{file.bytes} bytes", f"{stat.st_size} bytes")
    if file.known_hash is None:
        return Check("hash unknown")
    algorithm = file.known_hash.partition(":")[0]
    found = f"{algorithm}:{_digest(path, algorithm, stat.st_mtime_ns, stat.st_size)}"
    return Check("ok" if found == file.known_hash else "hash differs", file.known_hash, found)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, algorithm: str, _changed: int, _size: int) -> str:
    return pooch.file_hash(str(path), alg=algorithm)


def fetch(
    card: Card,
    file: CardFile,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    timeout: float = TIMEOUT,
) -> Path:
    """Path of a verified file: from the local folder, from the cache, or downloaded now.

    A file of the local folder is never changed. A damaged file of the cache is replaced only by a
    download that was verified.

    Raises
    ------
    DownloadError
        If the file in the local folder is not the one of the card, if there is no address to
        download from, or if all addresses failed.
    """
    path = find(file, data_dir=data_dir)
    if path is not None:
        status, expected, found = check(path, file)
        if status == "hash unknown":
            _warn_unverified(card, file)
        if status in ("ok", "hash unknown"):
            return path
        if not path.is_relative_to(cache_folder()):
            msg = (
                f"{path} is not the file of data set {card.name!r}: expected {expected}, found "
                f"{found}. It may be cut short or of another version. It was left as it is: "
                "replace it, or move it away to have it downloaded."
            )
            raise DownloadError(msg)
    if not file.urls:
        raise DownloadError(_no_address(card, file, data_dir=data_dir))
    return download(card, file, timeout=timeout)


def download(card: Card, file: CardFile, *, timeout: float = TIMEOUT) -> Path:
    """Download a file into the cache from the first address that gives the right bytes.

    Written to ``<file>.part``, verified, then moved into place. Where the connection was lost, the
    part stays and the next call goes on from there, if the server can; a part with wrong bytes is
    deleted.

    Raises
    ------
    DownloadError
        If all addresses failed; each is listed with its failure.
    """
    target = _place_in_cache(file)
    part = _part(target)
    if file.known_hash is None:
        part.unlink(missing_ok=True)  # two halves of different versions could not be told apart
    failures = []
    for url in file.urls:
        try:
            _from_one(url, target, file=file, timeout=timeout)
        except (OSError, ValueError) as error:  # OSError: requests' errors, a full disk
            failures.append(f"  {url}: {_short(error)}")
            continue
        if file.known_hash is None:
            _warn_unverified(card, file)
        return target
    raise DownloadError(_all_failed(card, file, part=part, failures=failures))


def _from_one(url: str, target: Path, *, file: CardFile, timeout: float) -> None:
    """Download from one address; once more from the start if an older part spoilt the bytes."""
    part = _part(target)
    kept = part.exists()
    retrieve = functools.partial(
        pooch.retrieve,
        url,
        known_hash=file.known_hash,
        fname=target.name,
        path=target.parent,
        downloader=ResumingDownloader(part=part, total=file.bytes, timeout=timeout),
    )
    try:
        retrieve()
    except ValueError:  # pooch's word for a wrong hash; it has deleted the bytes
        if not kept:
            raise
        retrieve()


class CutShortError(requests.RequestException):
    """A server closed the connection before all bytes had come."""


class WrongFileError(requests.RequestException):
    """A server offers a file of another size than the card's."""


@dataclass(frozen=True, kw_only=True)
class ResumingDownloader:
    """Downloader for :func:`pooch.retrieve` that goes on where a connection was lost.

    Bytes are gathered in ``part``, which is moved to the output file when it is whole: all bytes
    that the server announced and, where known, ``total``. A server that answers a request for the
    rest with the whole file is read from the start.
    """

    part: Path
    total: int | None = None
    timeout: float = TIMEOUT
    attempts: int = 3

    def __call__(self, url: str, output_file: str, _pooch: Any = None) -> None:
        """Download ``url`` to ``output_file``; errors of requests are raised after all attempts."""
        for attempt in range(1, self.attempts + 1):
            try:
                self._read(url)
                break
            except requests.RequestException as error:
                if attempt == self.attempts or not _is_passing(error):
                    raise
                time.sleep(PAUSE * attempt)
        self.part.replace(output_file)

    def _read(self, url: str) -> None:
        start = self.part.stat().st_size if self.part.exists() else 0
        if start and start == self.total:
            return
        # identity: sizes and ranges must count the bytes of the file, not of a compressed answer
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                self.part.unlink()
            answer.raise_for_status()
            resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            start = start if answer.status_code == requests.codes.partial and resumed else 0
            whole = self._whole(answer, start=start)
            with self.part.open("ab" if start else "wb") as out:
                for chunk in _with_bar(answer, name=self.part.stem, start=start, whole=whole):
                    out.write(chunk)
        size = self.part.stat().st_size
        if whole is not None and size != whole:
            msg = f"the connection was closed after {size} of {whole} bytes"
            raise CutShortError(msg)

    def _whole(self, answer: requests.Response, *, start: int) -> int | None:
        """Bytes of the whole file by the server's word, checked against the card's."""
        length = answer.headers.get("Content-Length")
        whole = self.total if length is None else start + int(length)
        if self.total is not None and whole != self.total:
            msg = f"the server offers {whole} bytes instead of {self.total}"
            raise WrongFileError(msg)
        return whole


def _with_bar(
    answer: requests.Response, *, name: str, start: int, whole: int | None
) -> Iterator[bytes]:
    with tqdm(desc=name, initial=start, total=whole, unit="B", unit_scale=True) as bar:
        for chunk in answer.iter_content(chunk_size=1 << 16):
            yield chunk
            bar.update(len(chunk))


def _is_passing(error: requests.RequestException) -> bool:
    """Whether the same address may answer better a moment later."""
    if isinstance(error, requests.Timeout | WrongFileError):
        return False
    status = None if error.response is None else error.response.status_code
    return status is None or status >= 500 or status in (408, 416, 429)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _place_in_cache(file: CardFile) -> Path:
    target = cache_folder() / file.path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{target.parent} cannot be written: {error}. Set {CACHE_ENV} to another folder."
        raise DownloadError(msg) from error
    return target


def _warn_unverified(card: Card, file: CardFile) -> None:
    msg = f"{file.name} of data set {card.name!r} has no known hash: its bytes were not verified."
    warnings.warn(msg, ScDisentWarning, stacklevel=2)


def _by_hand(file: CardFile) -> str:
    return (
        f"Put the file ({file.known_hash or 'hash unknown'}) at FOLDER/{file.path} and pass "
        f"data_dir=FOLDER or set {LOCAL_ENV}=FOLDER."
    )


def _no_address(card: Card, file: CardFile, *, data_dir: str | os.PathLike[str] | None) -> str:
    folder = local_folder(data_dir)
    looked = f"{folder / file.path} does not exist" if folder else "no local folder was given"
    origin = f" See {card.homepage}." if card.homepage else ""
    return (
        f"Data set {card.name!r} has no address to download {file.name} from, and {looked}. "
        f"Its licence: {card.licence}. {card.note or ''}{origin} {_by_hand(file)}"
    )


def _all_failed(card: Card, file: CardFile, *, part: Path, failures: list[str]) -> str:
    kept = f" {part.stat().st_size} bytes are kept for the next call." if part.exists() else ""
    instead = (
        f" A smaller set that is not downloaded: load({card.instead!r})." if card.instead else ""
    )
    return (
        f"{file.name} of data set {card.name!r} could not be downloaded.{kept} "
        f"{_by_hand(file)}{instead} Addresses tried:\n" + "\n".join(failures)
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
