"""Downloads against a real HTTP server on loopback that misbehaves on demand."""

import hashlib
import http.server
import threading

import pytest

from trainer.data.sources.download import RemoteFile, download
from trainer.data.spec import DataError

CONTENT = bytes(range(256)) * 2000
FILE = RemoteFile("data.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        mode = server.modes.pop(0) if server.modes else "good"
        if mode in ("404", "503"):
            self.send_error(int(mode))
            return
        content = b"x" * len(CONTENT) if mode == "wrong" else CONTENT * 2 if mode == "long" else CONTENT
        start = 0
        if self.headers.get("Range") and mode != "no_ranges":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if mode == "cut" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.modes = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, folder, mirrors=1):
    lines = []
    urls = [f"http://127.0.0.1:{server.server_port}/mirror{number}/" for number in range(mirrors)]
    path = download(FILE, urls, folder, say=lines.append, sleep=lambda seconds: None)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in folder.iterdir()] == ["data.bin"]
    return lines


def test_a_file_is_fetched_once(server, tmp_path):
    assert fetch(server, tmp_path / "new") == []
    fetch(server, tmp_path / "new")
    assert len(server.requests) == 1


def test_a_server_error_is_retried(server, tmp_path):
    server.modes = ["503", "503"]
    assert fetch(server, tmp_path) == []
    assert len(server.requests) == 3


def test_a_cut_connection_is_resumed_where_it_broke(server, tmp_path):
    server.modes = ["cut", "cut"]
    fetch(server, tmp_path)
    half = len(CONTENT) // 2
    assert [asked for _, asked in server.requests] == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_server_without_ranges_is_read_from_the_start(server, tmp_path):
    server.modes = ["cut", "no_ranges"]
    fetch(server, tmp_path)


@pytest.mark.parametrize("mode", ["404", "wrong", "long"])
def test_the_next_mirror_is_taken(server, tmp_path, mode):
    server.modes = [mode]
    lines = fetch(server, tmp_path, mirrors=2)
    assert len(lines) == 1 and "/mirror0/data.bin: " in lines[0]
    assert [path for path, _ in server.requests] == ["/mirror0/data.bin", "/mirror1/data.bin"]


def test_a_mirror_that_stays_down_is_left_after_three_attempts(server, tmp_path):
    server.modes = ["503"] * 3
    fetch(server, tmp_path, mirrors=2)
    assert len(server.requests) == 4


def test_without_a_good_mirror_every_reason_is_told_and_nothing_is_left(server, tmp_path):
    server.modes = ["wrong", "404"]
    with pytest.raises(DataError) as caught:
        fetch(server, tmp_path, mirrors=2)
    message = str(caught.value)
    assert "mirror0/data.bin: got sha256" in message and "404" in message and "--source_dir" in message
    assert list(tmp_path.iterdir()) == []


def test_nobody_listening_is_an_error_and_no_hang(tmp_path):
    with pytest.raises(DataError, match="could not be downloaded"):
        download(FILE, ["http://127.0.0.1:1/"], tmp_path, say=lambda line: None, sleep=lambda seconds: None)
