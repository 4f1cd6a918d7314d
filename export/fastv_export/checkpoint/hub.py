"""Checkpoints by hub id: only the files that an export reads, announced before they are fetched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from tqdm import tqdm

from fastv_export.checkpoint.checkpoint import INDEX, INDEX_SUFFIX, SINGLE, Checkpoint, shard_names
from fastv_export.checkpoint.foreign import check_names
from fastv_export.checkpoint.pickled import PICKLES, conversion
from fastv_export.checkpoint.processor_files import MORE_TEMPLATES, PROCESSOR_FILES
from fastv_export.families import family_of
from fastv_export.progress import Progress
from fastv_runtime.errors import UserError

SMALL_FILES = {*PROCESSOR_FILES, "generation_config.json", "merges.txt", "qwen.tiktoken", "vocab.json"}
"""What an export reads besides weights. No Python among it: code of a repository is never fetched."""

TIMEOUT = 10.0
"""Seconds that the hub may take to list a repository."""


def resolve(
    source: str,
    revision: str | None,
    progress: Progress,
    *,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Path:
    """The directory of a checkpoint: `source` itself if it exists, else what the hub id `source` names, downloaded.

    revision: branch, tag or commit of a hub id. endpoint, cache_dir: huggingface_hub's own if None. Without a network
    a complete copy in the cache will do. Raises UserError for what the hub has not, or not in a form that can be
    exported; no weights are fetched then. What is neither a path nor a hub id is returned as it is.
    """
    if Path(source).exists() or not _is_hub_id(source):
        if revision is not None:
            raise UserError(f"`revision` {revision}: {source} is not a hub id (org/name), which alone has revisions")
        return Path(source)
    return _Repository(source, revision, progress, endpoint, cache_dir).fetch()


def _is_small(name: str) -> bool:
    return name in SMALL_FILES or fnmatch(name, MORE_TEMPLATES)


def _is_hub_id(source: str) -> bool:
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return source.count("/") == 1


class _Repository:
    """One repository at one revision, and where its files are kept."""

    def __init__(
        self, name: str, revision: str | None, progress: Progress, endpoint: str | None, cache_dir: Path | None
    ):
        self.name = name
        self.revision = revision or constants.DEFAULT_REVISION
        self.at = name if revision is None else f"{name} at {revision}"
        self.cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
        self.api = HfApi(endpoint=endpoint)
        self.progress = progress
        option = "" if revision is None else f" --revision {revision}"
        self.by_hand = f"'hf download {name}{option} --local-dir {name.split('/')[1]}'"

    def fetch(self) -> Path:
        """Directory of the downloaded snapshot."""
        with self.progress.step(f"look up {self.name}"):
            try:
                with self._hub_errors():
                    info = self.api.model_info(self.name, revision=self.revision, files_metadata=True, timeout=TIMEOUT)
            except _HubError as error:
                return self._cached(error)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        weights = self._weights_file(sizes)
        try:
            with self._hub_errors():
                return self._snapshot(sizes, weights)
        except _HubError as error:
            raise UserError(
                f"{self.at}: the download broke off ({error}): run the command again, complete files are kept"
            ) from None

    def _snapshot(self, sizes: dict[str, int], weights: str) -> Path:
        # The one call by the revision's name: the cache then knows what the name means, also without a network.
        config = self._download("config.json", self.revision)
        folder = config.parent
        checkpoint = Checkpoint(folder)
        family_of(checkpoint.model_type(), str(config))  # before gigabytes of what cannot be exported
        weights = checkpoint.named_weights() or weights
        if weights not in sizes:
            raise UserError(f"{self.at}: config.json names {weights}, which the repository does not have")
        needed = {weights, *filter(_is_small, sizes)}
        if weights.endswith(INDEX_SUFFIX):
            shards = shard_names(self._download(weights, folder.name))
            if missing := set(shards) - sizes.keys():
                raise UserError(f"{self.at}: {weights} names {min(missing)}, which the repository does not have")
            needed.update(shards)
        self._download_all({name: sizes[name] for name in needed}, folder)
        return folder

    def _weights_file(self, names: dict[str, int]) -> str:
        """Name of the single file, or of the index, as `Checkpoint.files` would choose."""
        check_names(self.at, names)
        if "config.json" not in names:
            raise UserError(f"{self.at}: not a checkpoint of transformers, it has no config.json")
        for name in (SINGLE, INDEX):
            if name in names:
                return name
        if any(fnmatch(name, PICKLES) for name in names):
            raise UserError(
                f"{self.at}: its weights are pickles only, which are not opened here: {self.by_hand}, "
                f"then {conversion(self.name.split('/')[1])}, then give that directory"
            )
        raise UserError(f"{self.at}: no {SINGLE} and no {INDEX}: give a checkpoint that save_pretrained wrote")

    def _download_all(self, sizes: dict[str, int], folder: Path) -> None:
        missing = {name: size for name, size in sizes.items() if not (folder / name).is_file()}
        total = sum(missing.values())
        said = f"{self.at}: {len(sizes)} files, {_amount(sum(sizes.values()))}"
        if not missing:
            self.progress.note(f"{said}, all of them in {self.cache}")
            return
        self.progress.note(f"{said}; to download: {len(missing)} files, {_amount(total)}, to {self.cache}")
        free = shutil.disk_usage(folder).free
        if free < total:
            raise UserError(
                f"{self.cache}: {_amount(total)} to download and {_amount(free)} free: make room, or name another "
                f"place with {self.by_hand} and give that directory"
            )
        with self.progress.weights("download", total) as advance:
            # The smallest first: once the weights are there, everything is.
            for name in sorted(missing, key=lambda name: (missing[name], name)):
                self._download(name, folder.name, advance)

    def _download(self, name: str, revision: str, advance: Callable[[int], None] = lambda count: None) -> Path:
        return Path(
            self.api.hf_hub_download(
                self.name, name, revision=revision, cache_dir=self.cache, tqdm_class=_reporting(advance)
            )
        )

    @contextmanager
    def _hub_errors(self) -> Iterator[None]:
        """What the hub refuses as UserError, all other trouble on the way as _HubError."""
        try:
            yield
        except GatedRepoError:
            raise UserError(
                f"{self.at}: access is granted on request only: ask for it at {self.api.endpoint}/{self.name}, then "
                "'hf auth login'"
            ) from None
        except RevisionNotFoundError:
            raise UserError(f"`revision` {self.revision}: {self.name} has no such branch, tag or commit") from None
        except RepositoryNotFoundError:
            raise UserError(
                f"{self.name}: no such directory, and no such model at {self.api.endpoint}: check the spelling; if "
                "the model is private, 'hf auth login' first"
            ) from None
        except OfflineModeIsEnabled:
            raise _HubError("HF_HUB_OFFLINE is set") from None
        except HfHubHTTPError as error:
            raise _HubError(f"HTTP {error.response.status_code}") from None
        except (HTTPError, OSError, ValueError) as error:
            raise _HubError(_reason(error)) from None

    def _cached(self, error: _HubError) -> Path:
        """The snapshot that the cache has, if nothing of it is missing."""
        silent = f"no answer from {self.api.endpoint} ({error})"
        config = try_to_load_from_cache(self.name, "config.json", cache_dir=self.cache, revision=self.revision)
        found = f"{self.cache} has no copy"
        if isinstance(config, str):
            folder = Path(config).parent
            try:
                _ = Checkpoint(folder).files
            except UserError:
                found = f"{self.cache} has only a part of it"
            else:
                self.progress.note(f"{self.at}: {silent}; using the copy in {folder}")
                return folder
        raise UserError(
            f"{self.at}: no such directory, {silent}, and {found}: run {self.by_hand} where there is a network and "
            "give that directory"
        )


class _HubError(Exception):
    """The hub did not answer, or what it sent did not arrive."""


def _reporting(advance: Callable[[int], None]) -> type[tqdm]:
    """The progress bar that huggingface_hub wants, drawing nothing but reporting to ours."""

    class Bar(tqdm):
        def __init__(self, *args: object, **kwargs: object):
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

        # Xet counts bytes received apart from bytes written, in a second bar unless the first takes both.
        def update_transfer(self, n: float | None = 1) -> None:
            pass

        def set_transfer_postfix_str(self, *args: object, **kwargs: object) -> None:
            pass

    return Bar


def _amount(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _reason(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
