"""A bundle's signature, where the user wants one: minisign's, of `bundle.json`, which has the hash of all else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastv_runtime.errors import UserError, missing_extra

SIGNATURE = "bundle.json.minisig"
SIGN = "sign it where it was exported: minisign -S -m bundle.json"


def check_signature(bundle: Path, manifest: bytes, public_key: str | Path) -> None:
    """UserError unless `manifest`, the bytes of `bundle.json`, is signed by the key's owner.

    public_key: minisign's file of it, or the line in base64 in that file.
    """
    minisign = _minisign()
    key = _key(minisign, public_key)
    file = bundle / SIGNATURE
    try:
        signature = minisign.Signature.from_bytes(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{bundle}: is not signed, it has no {SIGNATURE}: {SIGN}, or leave `public_key` out") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}: copy the bundle again") from None
    except Exception:  # of a library: whatever it raises, this is none
        raise UserError(f"{file}: is no signature of minisign: copy the bundle again, or {SIGN}") from None
    try:
        key.verify(manifest, signature)
    except Exception:
        raise UserError(
            f"{bundle}: the signature is not of this bundle.json by this `public_key`: get the bundle again from whom "
            "you trust, or give the key of who signed it"
        ) from None


def _key(minisign: Any, public_key: str | Path) -> Any:
    path = Path(public_key)
    try:
        if path.is_file():
            return minisign.PublicKey.from_bytes(path.read_bytes())
        return minisign.PublicKey.from_base64(str(public_key))
    except OSError as error:
        raise UserError(f"`public_key` {path}: cannot be read: {error.strerror}") from None
    except Exception:
        raise UserError(
            f"`public_key` {public_key}: neither a file with a public key of minisign nor such a key: "
            "give what minisign -G wrote to minisign.pub"
        ) from None


def _minisign() -> Any:
    try:
        import minisign
    except ImportError:
        raise missing_extra("py-minisign", "sign") from None
    return minisign
