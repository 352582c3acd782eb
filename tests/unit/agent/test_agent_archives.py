"""Archives that would do more than fill a folder."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile

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


def test_a_header_that_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_DIRECTORY", 1 << 20)
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 8 << 20
    assert "header" in refused(tmp_path, gzip.compress(header.tobuf() + bytes(8 << 20)), "a.tgz")


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
