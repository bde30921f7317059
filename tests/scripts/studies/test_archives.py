"""Zip files that would write where they should not, or more than they should."""

import os
import stat
import struct
import zipfile

import pytest

from scripts.studies import archives
from scripts.studies.archives import ArchiveError, unpacked


def zip_of(file, members, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../../x", "a\\..\\..\\x", "C:/x", "C:x", "a/C:/x", "\\\\server\\share\\x", "..", "."]
)
def test_no_member_leaves_its_folder(tmp_path, name):
    before = below(tmp_path)
    info = zipfile.ZipInfo("x")
    info.filename = name
    file = zip_of(tmp_path / "a.zip", [(info, b"x")])
    with pytest.raises(ArchiveError, match="outside its folder"):
        unpacked(file)
    assert below(tmp_path) == [*before, "a.zip"]


def test_a_link_becomes_a_file_that_links_to_nothing(tmp_path):
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    folder = unpacked(zip_of(tmp_path / "a.zip", [(link, b"/etc"), ("link2/x", b"y")]))
    assert not (folder / "link").is_symlink()
    assert (folder / "link").read_bytes() == b"/etc"
    with pytest.raises(ArchiveError, match="can't be unpacked"):  # through what might have been a link
        unpacked(zip_of(tmp_path / "b.zip", [(link, b"/etc"), ("link/passwd", b"y")]))


def changed(file, offset, form, value):
    """The same zip file with another number in the central entry of its first member."""
    content = bytearray(file.read_bytes())
    struct.pack_into(form, content, content.index(b"PK\x01\x02") + offset, value)
    file.write_bytes(content)
    return file


def test_bombs(tmp_path, monkeypatch):
    with pytest.raises(ArchiveError, match="more than it can hold"):
        unpacked(zip_of(tmp_path / "ratio.zip", [("x", bytes(9_000_000))], zipfile.ZIP_LZMA))
    file = changed(zip_of(tmp_path / "lies.zip", [("x", b"y" * 5000)]), 24, "<I", 4_000_000_000)
    with pytest.raises(ArchiveError, match="more than it can hold"):
        unpacked(file)
    file = changed(file, 20, "<I", 3_900_000_000)
    with pytest.raises(ArchiveError, match="more bytes than the file has"):
        unpacked(file)
    file = changed(zip_of(tmp_path / "small.zip", [("x", b"y" * 5000)]), 24, "<I", 10)
    with pytest.raises(ArchiveError, match="can't be unpacked"):
        unpacked(file)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(ArchiveError, match="4 members, expected at most 3"):
        unpacked(zip_of(tmp_path / "many.zip", [(f"{n}", b"") for n in range(4)]))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: type("", (), {"free": 1000})())
    with pytest.raises(ArchiveError, match="set TMPDIR"):
        unpacked(zip_of(tmp_path / "full.zip", [("x", b"y" * 5000)]))


def test_a_zip_file_in_a_zip_file_stays_one(tmp_path):
    inner = zip_of(tmp_path / "inner.zip", [("P_flair.nii.gz", bytes(5000))])
    folder = unpacked(zip_of(tmp_path / "outer.zip", [("inner.zip", inner.read_bytes())]))
    assert below(folder) == ["inner.zip"]


def test_a_damaged_member_is_reported_whatever_packed_it(tmp_path):
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive = tmp_path / "studies.zip"
        with zipfile.ZipFile(archive, "w", method) as new:
            new.writestr("A/A_flair.nii", os.urandom(50_000))
        content = bytearray(archive.read_bytes())
        content[1000:2000] = bytes(1000)
        archive.write_bytes(content)
        with pytest.raises(ArchiveError, match=r"studies\.zip: can't be unpacked .*\. Copy it again"):
            unpacked(archive)
