"""A bundle that is signed, where the user asks for it: by really made keys of minisign."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import minisign
import pytest

from fastv_runtime import Bundle, Pipeline, UserError
from fastv_runtime.cli import inspect as inspect_command
from fastv_runtime.config.bundle import EMBEDDING, MANIFEST
from fastv_runtime.integrity import remembered
from fastv_runtime.integrity.signature import SIGNATURE


@pytest.fixture(scope="module")
def keys() -> tuple[minisign.KeyPair, minisign.KeyPair]:
    """The exporter's, and somebody else's."""
    return minisign.KeyPair.generate(), minisign.KeyPair.generate()


@pytest.fixture
def signed(tiny_bundle: Path, tmp_path: Path, keys: tuple[minisign.KeyPair, minisign.KeyPair]) -> Path:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "signed.fastv"))
    (bundle / SIGNATURE).write_bytes(bytes(keys[0].secret_key.sign((bundle / MANIFEST).read_bytes())))
    (tmp_path / "key.pub").write_bytes(bytes(keys[0].public_key))
    return bundle


def test_a_signed_bundle_opens_by_its_key(
    signed: Path, tmp_path: Path, keys: tuple[minisign.KeyPair, minisign.KeyPair]
) -> None:
    assert Pipeline.load(signed, public_key=tmp_path / "key.pub").bundle == Bundle.open(signed)
    in_base64 = (tmp_path / "key.pub").read_text().splitlines()[-1]
    assert Bundle.open(signed, public_key=in_base64) == Bundle.open(signed)


def test_a_bundle_that_is_not_signed_by_the_key_is_refused(
    signed: Path, tmp_path: Path, keys: tuple[minisign.KeyPair, minisign.KeyPair]
) -> None:
    (tmp_path / "other.pub").write_bytes(bytes(keys[1].public_key))
    with pytest.raises(UserError, match=r"the signature is not of this bundle\.json by this `public_key`"):
        Bundle.open(signed, public_key=tmp_path / "other.pub")
    text = (signed / MANIFEST).read_text()
    (signed / MANIFEST).write_text(text.replace('"keep": 0.5', '"keep": 0.50'))
    Bundle.open(signed)  # as good as before, but for the signature
    with pytest.raises(UserError, match=r"the signature is not of this bundle\.json"):
        Bundle.open(signed, public_key=tmp_path / "key.pub")
    (signed / SIGNATURE).write_bytes(b"untrusted comment: none\nAAAA\n")
    with pytest.raises(UserError, match=f"{SIGNATURE}: is no signature of minisign"):
        Bundle.open(signed, public_key=tmp_path / "key.pub")
    (signed / SIGNATURE).unlink()
    with pytest.raises(UserError, match=r"is not signed, it has no bundle.json.minisig: sign it .* minisign -S -m"):
        Bundle.open(signed, public_key=tmp_path / "key.pub")


@pytest.mark.parametrize("key", ["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7", "nowhere/key.pub", "x\0"])
def test_what_is_no_key_is_one_line(signed: Path, key: str) -> None:
    with pytest.raises(UserError, match="neither a file with a public key of minisign nor such a key"):
        Bundle.open(signed, public_key=key)


def test_with_a_key_nothing_is_taken_from_memory(signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "SETTLED", -1.0)
    Bundle.open(signed)
    data = bytearray((signed / EMBEDDING).read_bytes())
    data[0] ^= 1
    (signed / EMBEDDING).write_bytes(data)
    stamp = remembered.Stamp.of(signed / EMBEDDING)
    files = remembered.recall(signed)
    # As if somebody had made the file look the same.
    remembered.remember(signed, files | {EMBEDDING: files[EMBEDDING].model_copy(update={"stamp": stamp})})
    Bundle.open(signed)
    with pytest.raises(UserError, match=f"{EMBEDDING}: its sha256 is not"):
        Bundle.open(signed, public_key=tmp_path / "key.pub")
    with pytest.raises(UserError, match=f"{EMBEDDING}: its sha256 is not"):
        Bundle.open(signed, check_hashes=True)


def test_a_command_names_its_flag(signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect_command.main([str(signed), "--public-key", str(tmp_path / "key.pub"), "--json"])
    (signed / SIGNATURE).unlink()
    with pytest.raises(SystemExit) as ended:
        inspect_command.main([str(signed), "--public-key", str(tmp_path / "key.pub")])
    assert ended.value.code == 2
    assert "or leave --public-key out" in capsys.readouterr().err


def test_without_the_library_the_extra_is_named(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minisign", None)
    Bundle.open(signed)
    with pytest.raises(UserError, match=r"pip install -e '\.\[sign\]'"):
        Bundle.open(signed, public_key="x")
