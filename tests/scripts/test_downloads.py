"""Downloads: over HTTPS alone, continued, whole or not at all, and tried before they count."""

import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from scripts import downloads
from scripts.downloads import SHIPPED, DownloadError, download_all, fetch, shipped
from scripts.environment import BUNDLE_ROOT

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """A server of one file, which breaks off after ``breaks`` bytes, or leads elsewhere."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.leads_to, self.mark, self.asked, self.size = CONTENT, [], None, '"1"', [], None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, start = self.server, 0
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.leads_to:
            self.send_response(302)
            self.send_header("Location", server.leads_to)
            self.end_headers()
            return
        if wanted and self.headers.get("If-Range") == server.mark:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        rest = server.content[start:]
        self.send_header("Content-Length", str(server.size or len(rest)))
        self.send_header("ETag", server.mark)
        self.end_headers()
        self.wfile.write(rest[: server.breaks.pop(0)] if server.breaks else rest)


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_file_arrives_whole_with_the_checksum_that_was_known(server, tmp_path):
    known = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(server.url, tmp_path / "new" / "a.bin", known).read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["a.bin"]
    with pytest.raises(DownloadError, match=f"found SHA-256 {known}, expected 00"):
        fetch(server.url, tmp_path / "b.bin", "00")
    assert names(tmp_path) == ["new"]


def test_it_is_continued_where_it_broke_off(server, tmp_path):
    server.breaks = [300_000, 200_000]
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_attempt_continues_unless_the_file_has_changed(server, tmp_path):
    server.breaks = [1000] * 5
    with pytest.raises(DownloadError, match="continues where it stopped"):
        fetch(server.url, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    server.content, server.mark = CONTENT[::-1], '"2"'
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == CONTENT[::-1]
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "elsewhere", ["http://192.0.2.1/x", "file:///etc/passwd", "ftp://192.0.2.1/x", "http://localhost.example/x"]
)
def test_what_is_not_encrypted_is_refused_also_when_an_address_leads_there(server, tmp_path, elsewhere):
    with pytest.raises(DownloadError, match="is not an https:// address"):
        fetch(elsewhere, tmp_path / "a.bin")
    server.leads_to = elsewhere
    with pytest.raises(DownloadError, match=r"is not an https:// address|can't be fetched|answers 302"):
        fetch(server.url, tmp_path / "a.bin")
    assert names(tmp_path) == []


def test_what_is_too_large_is_not_fetched(server, tmp_path):
    with pytest.raises(DownloadError, match="1,024,000 bytes, expected at most 1,000"):
        fetch(server.url, tmp_path / "a.bin", largest=1000)
    server.size = 900  # the server lies, and the reader believes it: no more than it said is taken
    assert fetch(server.url, tmp_path / "a.bin", largest=1000).stat().st_size == 900


def test_what_is_no_weights_file_does_not_stay(server, tmp_path, caplog):
    entry = {"path": "models/released/a.pth", "url": server.url}
    (tmp_path / "large_files.yml").write_text(yaml.safe_dump({"large_files": [entry]}))
    server.content = b"<!DOCTYPE html>quota exceeded"
    with pytest.raises(DownloadError, match="is not a weights file, and was removed"):
        download_all(tmp_path)
    assert names(tmp_path / "models" / "released") == []
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, stream)
    server.content = stream.getvalue()
    with caplog.at_level("INFO", logger="scripts.downloads"):
        (file,) = download_all(tmp_path)
    assert hashlib.sha256(server.content).hexdigest() in caplog.text
    assert "no checksum" in caplog.text
    count = len(server.asked)
    assert download_all(tmp_path) == [file]
    assert len(server.asked) == count
    (tmp_path / "large_files.yml").write_text(yaml.safe_dump({"large_files": [{**entry, "hash_val": "00"}]}))
    with pytest.raises(DownloadError, match="its SHA-256 differs from large_files"):
        download_all(tmp_path)


def test_no_entry_of_a_list_leaves_the_bundle(server, tmp_path):
    entry = {"path": "../outside.pth", "url": server.url}
    (tmp_path / "large_files.yml").write_text(yaml.safe_dump({"large_files": [entry]}))
    with pytest.raises(ValueError, match="outside the output folder"):
        download_all(tmp_path)
    assert not server.asked


def test_what_is_shipped_is_what_was_published(tmp_path):
    models = BUNDLE_ROOT / "models"
    assert shipped(models) == dict.fromkeys(SHIPPED, "as published")
    assert {path.name for path in models.iterdir() if path.is_file()} >= set(SHIPPED)
    text = (models / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` | `{known}` |" in text for name, known in SHIPPED.items())
    (tmp_path / "segmentation.pt").write_bytes(b"x")
    assert shipped(tmp_path) == {"segmentation.pt": "another file", "calibration.npz": "missing"}


def test_all_of_the_bundles_files_are_fetched_over_https():
    listed = yaml.safe_load((BUNDLE_ROOT / "large_files.yml").read_text())["large_files"]
    for entry in listed:
        downloads._check(entry["url"], entry["url"])
