"""The loader against a server on this machine that cuts, corrupts, stalls and refuses."""

import hashlib
import http.server
import re
import threading
import time
from collections import defaultdict

import numpy as np
import pooch
import pytest

from scdisent._errors import DownloadError, OptionError, ScDisentWarning
from scdisent.datasets import _fetch
from scdisent.datasets._cards import Card, CardFile
from scdisent.datasets._fetch import check, fetch, find

CONTENT = np.random.default_rng(0).bytes(600_000)
HALF = len(CONTENT) // 2
BLOCK = 1 << 16
"""Bytes read at once: less than this is lost of a cut download."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a path as its plan says: one word for each request, the last one for ever."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.log.append((self.path, asked))
        plan = self.server.plans[self.path]
        action = plan.pop(0) if len(plan) > 1 else plan[0]
        self.close_connection = True
        if action.isdigit():
            self.send_error(int(action))
            return
        body = CONTENT if action != "corrupt" else CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
        if action == "other size":
            body = b"<html>log in first</html>"
        start = 0
        if asked and self.server.ranges:
            start = offset(asked)
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if "unsized" not in action:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = start + (len(body) - start) // 2 if "cut" in action or action == "stall" else None
        self.wfile.write(body[start:stop])
        if action == "stall":
            self.wfile.flush()
            self.server.over.wait(20)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("SCDISENT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SCDISENT_DATA_DIR", raising=False)
    monkeypatch.setattr(_fetch, "PAUSE", 0.01)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.plans = defaultdict(lambda: ["404"])
        running.log = []
        running.ranges = True
        running.over = threading.Event()
        running.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "planet"


def make(server, **plans):
    """Card of one file whose mirrors behave as planned."""
    for mirror, plan in plans.items():
        server.plans[f"/{mirror}"] = plan
    urls = tuple(f"{server.address}/{mirror}" for mirror in plans)
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = CardFile(path="planet/earth.bin", urls=urls, bytes=len(CONTENT), sha256=digest)
    card = Card(name="planet", what="w", source="s", licence="l", kind="csv", files=(file,))
    return card, file


def offset(range_header):
    return int(re.fullmatch(r"bytes=(\d+)-", range_header or "bytes=0-")[1])


def left_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_whole_file_is_kept_and_not_asked_for_again(server, cache):
    card, file = make(server, good=["whole"])
    path = fetch(card, file)
    assert path == cache / "earth.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(card, file) == path
    assert server.log == [("/good", None)]
    assert left_in(cache) == ["earth.bin"]


def test_a_cut_download_goes_on_where_it_stopped(server, cache):
    card, file = make(server, flaky=["cut", "cut", "whole"])
    assert fetch(card, file).read_bytes() == CONTENT
    first, second, third = (offset(range_) for _, range_ in server.log)
    assert 0 == first < second < third
    assert second > HALF - BLOCK
    assert third > second + (len(CONTENT) - second) // 2 - BLOCK
    assert left_in(cache) == ["earth.bin"]


def test_a_cut_download_starts_again_where_the_server_knows_no_ranges(server, cache):
    server.ranges = False
    card, file = make(server, flaky=["cut", "whole"])
    assert fetch(card, file).read_bytes() == CONTENT
    assert len(server.log) == 2
    assert left_in(cache) == ["earth.bin"]


def test_a_cut_is_seen_even_if_the_server_announces_no_length(server):
    card, file = make(server, flaky=["unsized cut", "unsized"])
    assert fetch(card, file).read_bytes() == CONTENT
    assert offset(server.log[1][1]) > HALF - BLOCK


def test_a_lost_download_goes_on_in_the_next_call(server, cache):
    card, file = make(server, flaky=["cut", "404", "whole"])
    with pytest.raises(DownloadError, match=r"\d+ bytes are kept for the next call"):
        fetch(card, file)
    assert left_in(cache) == ["earth.bin.part"]
    kept = (cache / "earth.bin.part").stat().st_size
    assert HALF - BLOCK < kept <= HALF
    assert fetch(card, file).read_bytes() == CONTENT
    assert offset(server.log[-1][1]) == kept
    assert left_in(cache) == ["earth.bin"]


def test_a_kept_part_that_is_whole_is_not_downloaded_again(server, cache):
    card, file = make(server, good=["whole"])
    cache.mkdir(parents=True)
    (cache / "earth.bin.part").write_bytes(CONTENT)
    assert fetch(card, file).read_bytes() == CONTENT
    assert server.log == []


@pytest.mark.parametrize("n_bytes", [1000, len(CONTENT), len(CONTENT) + 5])
def test_a_kept_part_of_wrong_bytes_is_thrown_away(server, cache, n_bytes):
    card, file = make(server, good=["whole"])
    cache.mkdir(parents=True)
    (cache / "earth.bin.part").write_bytes(b"x" * n_bytes)
    assert fetch(card, file).read_bytes() == CONTENT
    assert left_in(cache) == ["earth.bin"]


def test_corrupt_bytes_are_refused_and_leave_nothing(server, cache):
    card, file = make(server, bad=["corrupt"])
    with pytest.raises(DownloadError, match="SHA256 hash of downloaded file") as caught:
        fetch(card, file)
    assert file.sha256 in str(caught.value)
    assert left_in(cache) == []


def test_another_size_is_refused_before_it_is_read(server, cache):
    card, file = make(server, portal=["other size"])
    with pytest.raises(DownloadError, match="offers 25 bytes instead of 600000"):
        fetch(card, file)
    assert left_in(cache) == []
    assert len(server.log) == 1


def test_mirrors_are_tried_in_order(server):
    card, file = make(server, gone=["404"], bad=["corrupt"], good=["whole"])
    assert fetch(card, file).read_bytes() == CONTENT
    assert [path for path, _ in server.log] == ["/gone", "/bad", "/good"]


def test_a_stalled_server_is_left_for_the_next(server):
    card, file = make(server, stuck=["stall"], good=["whole"])
    start = time.monotonic()
    assert fetch(card, file, timeout=0.2).read_bytes() == CONTENT
    assert time.monotonic() - start < 5
    assert server.log[-1][0] == "/good"


def test_a_busy_server_is_asked_again(server):
    card, file = make(server, busy=["503", "429", "whole"])
    assert fetch(card, file).read_bytes() == CONTENT


def test_all_failures_are_listed_with_what_to_do(server, cache):
    card, file = make(server, gone=["404"], bad=["corrupt"], forbidden=["403"])
    with pytest.raises(DownloadError) as caught:
        fetch(card, file)
    text = str(caught.value)
    for word in ("/gone: 404", "/bad: SHA256", "/forbidden: 403", "SCDISENT_DATA_DIR", file.sha256):
        assert word in text
    assert [path for path, _ in server.log] == ["/gone", "/bad", "/forbidden"]


def test_a_server_that_is_not_there_is_reported(server):
    card, file = make(server, any=["whole"])
    dead = CardFile(path=file.path, urls=("http://127.0.0.1:9/x",), sha256=file.sha256)
    with pytest.raises(DownloadError, match="127.0.0.1:9/x: "):
        fetch(card, dead)


def test_a_failed_download_keeps_the_old_file_and_a_good_one_replaces_it(server, cache):
    card, file = make(server, mirror=["corrupt", "whole"])
    cache.mkdir(parents=True)
    old = cache / "earth.bin"
    old.write_bytes(b"old")
    with pytest.raises(DownloadError):
        fetch(card, file)
    assert old.read_bytes() == b"old"
    assert fetch(card, file).read_bytes() == CONTENT


def test_an_unknown_hash_is_downloaded_with_a_warning(server):
    card, file = make(server, good=["cut", "whole"])
    bare = CardFile(path=file.path, urls=file.urls)
    for _ in range(2):
        with pytest.warns(ScDisentWarning, match=r"earth.bin .* no known hash"):
            path = fetch(card, bare)
        assert path.read_bytes() == CONTENT


def test_md5_is_used_where_it_is_all_that_is_known(server, cache):
    card, file = make(server, mirror=["corrupt", "whole"])
    digest = hashlib.md5(CONTENT).hexdigest()
    weak = CardFile(path=file.path, urls=file.urls, md5=digest)
    with pytest.raises(DownloadError, match=digest):
        fetch(card, weak)
    assert fetch(card, weak).read_bytes() == CONTENT
    assert check(cache / "earth.bin", weak).status == "ok"


def local_copy(folder, content):
    path = folder / "planet" / "earth.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_the_local_folder_comes_first(server, cache, tmp_path, monkeypatch, how):
    card, file = make(server, good=["whole"])
    fetch(card, file)
    server.log.clear()
    path = local_copy(tmp_path / "local", CONTENT)
    if how == "environment":
        monkeypatch.setenv("SCDISENT_DATA_DIR", str(tmp_path / "local"))
    data_dir = tmp_path / "local" if how == "argument" else None
    assert fetch(card, file, data_dir=data_dir) == path
    assert find(file, data_dir=data_dir) == path
    assert server.log == []


def test_a_wrong_local_file_is_refused_and_kept(server, cache, tmp_path):
    card, file = make(server, good=["whole"])
    wrong = CONTENT[:-1] + b"\0"
    path = local_copy(tmp_path / "local", wrong)
    with pytest.raises(DownloadError, match="is not the file of data set 'planet'") as caught:
        fetch(card, file, data_dir=tmp_path / "local")
    for word in (str(path), file.sha256, hashlib.sha256(wrong).hexdigest()):
        assert word in str(caught.value)
    assert path.read_bytes() == wrong
    assert server.log == []


def test_a_local_file_cut_short_is_refused_with_its_size(server, tmp_path):
    card, file = make(server, good=["whole"])
    path = local_copy(tmp_path / "local", CONTENT[:HALF])
    with pytest.raises(DownloadError, match="expected 600000 bytes, found 300000 bytes"):
        fetch(card, file, data_dir=tmp_path / "local")
    assert path.read_bytes() == CONTENT[:HALF]


def test_a_hash_is_computed_once_until_the_file_changes(server, tmp_path, monkeypatch):
    card, file = make(server, good=["whole"])
    path = local_copy(tmp_path / "local", CONTENT)
    calls = []
    real = pooch.file_hash
    monkeypatch.setattr(pooch, "file_hash", lambda *a, **k: calls.append(a) or real(*a, **k))
    for _ in range(3):
        fetch(card, file, data_dir=tmp_path / "local")
    assert len(calls) == 1
    path.write_bytes(CONTENT[:-1] + b"\0")
    with pytest.raises(DownloadError):
        fetch(card, file, data_dir=tmp_path / "local")
    assert len(calls) == 2


def test_a_file_without_address_says_where_to_put_it(server, tmp_path):
    card, file = make(server)
    with pytest.raises(DownloadError, match=r"no local folder was given.*FOLDER/planet/earth.bin"):
        fetch(card, file)
    with pytest.raises(DownloadError, match=rf"{tmp_path}/planet/earth.bin does not exist"):
        fetch(card, file, data_dir=tmp_path)


def test_a_local_folder_that_is_none_is_refused(server, tmp_path, monkeypatch):
    card, file = make(server, good=["whole"])
    with pytest.raises(OptionError, match="data_dir should be a folder"):
        fetch(card, file, data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("SCDISENT_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(OptionError, match="environment variable SCDISENT_DATA_DIR"):
        fetch(card, file)


def test_a_cache_that_cannot_be_written_names_the_variable_to_set(server, tmp_path, monkeypatch):
    card, file = make(server, good=["whole"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCDISENT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="Set SCDISENT_CACHE_DIR to another folder"):
        fetch(card, file)
