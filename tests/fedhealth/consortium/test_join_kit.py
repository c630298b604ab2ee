"""A kit's zip: three files and nothing that a zip can be abused for."""

import contextlib
import io
import random
import stat
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.consortium.join_kit import make_kit, read_kit
from fedhealth.errors import FedhealthError, TrustError
from tests.fedhealth.site.consortium import World


@pytest.fixture(name="world", scope="module")
def world_(tmp_path_factory):
    return World(tmp_path_factory.mktemp("kit"), sites=("charite",))


@pytest.fixture(name="genuine", scope="module")
def genuine_(world):
    return world.kit("charite")


def files_of(kit):
    with zipfile.ZipFile(io.BytesIO(kit)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files, method=zipfile.ZIP_DEFLATED, **attributes):
    """Zip (name, content) pairs; `attributes` of ZipInfo go to every entry."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, content, method)
    return packed.getvalue()


def test_a_kit_comes_back_as_it_was(world, genuine):
    kit = read_kit(genuine)
    assert kit.signed.dumps() == world.lead.membership.read_bytes()
    assert kit.authority_pem == world.lead.ca.read_bytes()
    assert make_kit(kit.signed, kit.authority_pem, "charite") == genuine


def test_it_tells_people_what_to_do_and_holds_no_secret(world, genuine):
    files = files_of(genuine)
    assert b"fedhealth site install charite.zip" in files["README.txt"]
    fingerprint = read_kit(genuine).signed.membership.fingerprint.encode()
    assert fingerprint not in files["README.txt"]  # it is to be heard by telephone, not read beside what it vouches for
    for path in world.lead.keys.iterdir():
        for content in files.values():
            assert path.read_bytes() not in content
            assert path.read_bytes().hex().encode() not in content
    assert not any(b"PRIVATE" in content for content in files.values())


@pytest.mark.parametrize(
    "name", ["../../keys/identity.key", "/etc/passwd", "..\\x", "sub/ca.crt", "ca.crt ", "CA.CRT", "site.yaml", "kit/"]
)
def test_another_file_is_refused(genuine, name):
    files = [*files_of(genuine).items(), (name, b"x")]
    with pytest.raises(TrustError, match="holds other files"):
        read_kit(zipped(files))
    renamed = [(name if old == "ca.crt" else old, content) for old, content in files_of(genuine).items()]
    with pytest.raises(TrustError, match="holds other files"):
        read_kit(zipped(renamed))


def test_a_missing_or_doubled_file_is_refused(genuine):
    files = list(files_of(genuine).items())
    with pytest.raises(TrustError, match="holds other files"):
        read_kit(zipped(files[:-1]))
    with pytest.warns(UserWarning, match="Duplicate"):
        doubled = zipped([*files, files[0]])
    with pytest.raises(TrustError, match="holds other files"):
        read_kit(doubled)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_device_is_refused(genuine, kind):
    files = list(files_of(genuine).items())
    with pytest.raises(TrustError, match="a link, a folder"):
        read_kit(zipped(files, external_attr=(kind | 0o777) << 16))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_packing_is_refused(genuine, method):
    with pytest.raises(TrustError, match="unsupported compression"):
        read_kit(zipped(files_of(genuine).items(), method))


def test_a_bomb_does_not_unfold(genuine):
    for name in ("membership.json", "ca.crt", "README.txt"):
        files = {**files_of(genuine), name: b" " * 2**27}
        bomb = zipped(files.items())
        assert len(bomb) < 2**21
        with pytest.raises(TrustError, match="larger than"):
            read_kit(bomb)


def test_a_bomb_that_lies_about_its_size_does_not_unfold(genuine):
    bomb = zipped({**files_of(genuine), "README.txt": b" " * 2**27}.items())
    for size in (100, 2**14):
        with pytest.raises(TrustError):
            read_kit(bomb.replace((2**27).to_bytes(4, "little"), size.to_bytes(4, "little")))


def test_a_large_file_is_not_even_opened():
    with pytest.raises(TrustError, match="larger than"):
        read_kit(bytes(2**21 + 1))


def test_another_authority_is_refused(world, genuine, tmp_path):
    other = World(tmp_path, sites=("charite",))
    for ca in (other.lead.ca.read_bytes(), world.lead.certificate.read_bytes()):
        with pytest.raises(TrustError, match="not the authority that the membership names"):
            read_kit(zipped({**files_of(genuine), "ca.crt": ca}.items()))
    two = world.lead.ca.read_bytes() + other.lead.ca.read_bytes()
    with pytest.raises(TrustError, match="holds 2 certificates"):
        read_kit(zipped({**files_of(genuine), "ca.crt": two}.items()))


@given(content=st.binary(max_size=400))
def test_anything_else_is_refused_in_our_own_words(content):
    with pytest.raises(TrustError):
        read_kit(content)


def test_a_damaged_kit_is_whole_or_refused_in_our_own_words(genuine):
    draw, whole = random.Random(7), read_kit(genuine).signed.dumps()
    for _ in range(500):
        content = bytearray(genuine)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        with contextlib.suppress(FedhealthError):
            assert read_kit(bytes(content)).signed.dumps() == whole  # the damage was beside what counts
