"""Archives that would do more than fill a folder."""

import gzip
import io
import shutil
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from contextlib import suppress

import pytest
from capstan_agent import archives, errors


def tar(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def special(kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("special")
    info.type, info.linkname = kind, link
    return info


def unpack(tmp_path, data: bytes, name: str) -> int:
    (tmp_path / "archive").write_bytes(data)
    folder = tmp_path / "outer/folder"
    folder.mkdir(parents=True)
    return archives.unpack(tmp_path / "archive", folder, name)


def refused(tmp_path, data: bytes, name: str) -> str:
    with pytest.raises(errors.UnsafeArchive) as raised:
        unpack(tmp_path, data, name)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert str(raised.value).isprintable()
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "model.onnx"),
        (tarfile.LNKTYPE, "../../evil"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_in_a_tar(tmp_path, kind, link):
    assert "plain files" in refused(tmp_path, tar((special(kind, link), b"")), "a.tgz")


NAMES = [
    "../evil",
    "/tmp/evil",
    "a/../../evil",
    "./../evil",
    "a\\..\\evil",
    "evil\n",
    "a//evil",
    "evil" + "x" * 300,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_tar(tmp_path, name):
    refused(tmp_path, tar((tarfile.TarInfo(name), b"x")), "a.tgz")


@pytest.mark.parametrize("name", [name for name in NAMES if "\\" not in name] + ["C:\\..\\evil"])
def test_names_in_a_zip(tmp_path, name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x")
    refused(tmp_path, buffer.getvalue(), "a.zip")


def test_a_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc")
        archive.writestr("link/evil", b"x")
    assert "link" in refused(tmp_path, buffer.getvalue(), "a.zip")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(archives, "_FREE", 1 << 20)
    monkeypatch.setattr(archives, "_READ", 64 << 10)


def test_a_zip_bomb(tmp_path, small):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(16 << 20))
    assert "would unpack to more than" in refused(tmp_path, buffer.getvalue(), "a.zip")
    assert not list((tmp_path / "outer/folder").iterdir())


def test_a_zip_that_lies_about_its_size(tmp_path, small):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(16 << 20))
    data = bytearray(buffer.getvalue())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 10)
    refused(tmp_path, bytes(data), "a.zip")
    assert sum(path.stat().st_size for path in (tmp_path / "outer/folder").rglob("*")) <= 2 << 20


def test_a_tar_bomb(tmp_path, small):
    assert "would unpack" in refused(tmp_path, tar((tarfile.TarInfo("zeros"), bytes(16 << 20))), "a.tar.gz")


def test_a_header_that_fills_the_memory(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 8 << 20
    assert "header" in refused(tmp_path, gzip.compress(header.tobuf() + bytes(8 << 20)), "a.tgz")


def sparse(*, chained: int = 0, whole: bool = True) -> bytes:
    """The old GNU format: a map in the header, which goes on in blocks of its own."""
    pair = b"%011o\0" * 2
    header = bytearray(special(tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:482] = pair % (0, 1) * 4
    header[482], header[483:495] = int(chained > 0 or not whole), b"%011o\0" % 1
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    block = pair % (0, 1) * 21 + b"\1" + bytes(7)
    last = pair % (0, 1) * 21 + bytes(8)
    return bytes(header) + block * chained + (last if whole else b"") + bytes(1024 if whole else 0)


def test_a_sparse_file(tmp_path):
    assert "sparse" in refused(tmp_path, sparse(), "a.tar")


def test_a_sparse_file_whose_map_breaks_off(tmp_path):
    assert "damaged" in refused(tmp_path, sparse(whole=False), "a.tar")


def peak(tmp_path, data: bytes, name: str) -> int:
    """The most memory that refusing an archive takes."""
    tracemalloc.start()
    try:
        refused(tmp_path, data, name)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_headers_that_fill_the_memory_together(tmp_path):
    assert peak(tmp_path, gzip.compress(sparse(chained=20_000)), "a.tgz") < 16 << 20


def test_global_headers_are_not_gathered(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ENTRIES", 50)
    buffer = io.BytesIO()
    for number in range(60):
        headers = {f"comment.{number}": "x" * 900_000}
        buffer.write(tarfile.TarInfo.create_pax_global_header(headers))
        buffer.write(tarfile.TarInfo(f"{number}").tobuf())
    data = gzip.compress(buffer.getvalue())
    monkeypatch.setattr(archives, "_FREE", 1 << 30)
    assert peak(tmp_path, data, "a.tgz") < 16 << 20


def zipped(count: int, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for number in range(count):
            archive.writestr(f"{number}", b"content" * 10)
    return buffer.getvalue()


def test_a_directory_of_too_many_entries_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ENTRIES", 100)
    monkeypatch.setattr(zipfile, "ZipInfo", None)
    assert "entries" in refused(tmp_path, DIRECTORY, "a.zip")


DIRECTORY = zipped(101)


def test_a_directory_that_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_DIRECTORY", 2000)
    assert "directory" in refused(tmp_path, DIRECTORY, "a.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_another_method(tmp_path, method):
    assert "deflate" in refused(tmp_path, zipped(1, method), "a.zip")


def test_names_that_are_no_text(tmp_path):
    data = tar((tarfile.TarInfo("mod\udce8le"), b"x"), mode="w")
    assert "rename" in refused(tmp_path, data, "a.tar")


def test_a_zip_whose_directory_lies_before_its_beginning(tmp_path):
    data = bytearray(zipped(1))
    entry = data.index(b"PK\x01\x02")
    del data[:10]
    data[entry - 10 + 42 : entry - 10 + 46] = struct.pack("<I", 1)
    assert "damaged" in refused(tmp_path, bytes(data), "a.zip")


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar"])
def test_damage_anywhere_is_told_as_damage(tmp_path, name):
    """A byte at a time: whatever the libraries make of it, it is the archive's fault, or harmless."""
    kind = {"a.zip": "", "a.tgz": "w:gz", "a.tar": "w"}[name]
    whole = (
        tar((tarfile.TarInfo("a" * 120), b"x" * 90), mode=kind) if kind else zipped(2, zipfile.ZIP_DEFLATED)
    )
    for place in range(0, min(len(whole), 1600), 1 + len(whole) // 1000):
        for value in {0, 0xFF} - {whole[place]}:
            folder = tmp_path / f"{place}-{value}"
            folder.mkdir()
            (folder / "archive").write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with suppress(errors.UnsafeArchive):
                archives.unpack(folder / "archive", folder, name)
            shutil.rmtree(folder)


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ENTRIES", 3)
    members = [(tarfile.TarInfo(f"{number}"), b"") for number in range(4)]
    assert "entries" in refused(tmp_path, tar(*members), "a.tgz")


def test_the_same_name_twice(tmp_path):
    assert "twice" in refused(
        tmp_path, tar((tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo("a"), b"2")), "a.tgz"
    )


def test_a_file_where_a_folder_is(tmp_path):
    assert "twice" in refused(
        tmp_path, tar((tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo("a/b"), b"2")), "a.tgz"
    )


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip"])
@pytest.mark.parametrize("data", [b"", b"not an archive", bytes(2000)])
def test_what_is_no_archive(tmp_path, name, data):
    if name == "a.tar" and data == bytes(2000):
        assert unpack(tmp_path, data, name) == 0, "the end of a tar and nothing before it"
    else:
        refused(tmp_path, data, name)


def test_a_truncated_archive(tmp_path):
    data = tar((tarfile.TarInfo("a"), bytes(range(256)) * 400))
    refused(tmp_path, data[: len(data) // 2], "a.tgz")


def test_an_encrypted_zip(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"x")
    data = bytearray(buffer.getvalue())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[6] |= 1
    assert "password" in refused(tmp_path, bytes(data), "a.zip")


def test_modes_and_owners_are_not_taken_over(tmp_path):
    info = tarfile.TarInfo("./a/run.sh")
    info.mode, info.uid = 0o6777, 1234
    folder = tarfile.TarInfo("./a")
    folder.type = tarfile.DIRTYPE
    assert unpack(tmp_path, tar((folder, b""), (info, b"x"), mode="w"), "a.tar") == 1
    assert stat.S_IMODE((tmp_path / "outer/folder/a/run.sh").stat().st_mode) == 0o644
