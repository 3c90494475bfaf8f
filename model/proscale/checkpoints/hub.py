"""`hf:OWNER/NAME[@revision]`: checkpoints on the Hugging Face hub, fetched into its cache."""

import re
from dataclasses import dataclass
from pathlib import Path

from proscale.errors import CheckpointError

PREFIX = "hf:"
WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "preprocessor_config.json",
    "labels.json",
    "source.json",
    "proscale.json",
]
FALLBACK = ["*.bin", "*.pth", "*.pkl", "*.yaml"]
"""Fetched only where there is no safetensors file: they are larger, or older forms of the same weights."""
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class HubSource:
    """A repository at a revision, fetched."""

    repository: str
    commit: str
    folder: Path


def is_hub_source(source: str) -> bool:
    """Whether SOURCE names a repository rather than a path."""
    return source.startswith(PREFIX)


def fetch(source: str) -> HubSource:
    """Fetch a repository's weights and configuration, with progress; what the cache has is not fetched again.

    Args:
        source: `hf:OWNER/NAME`, with `@revision` for a branch, tag or commit. HF_ENDPOINT, HF_HOME and HF_TOKEN count.

    Raises:
        CheckpointError: no such repository or revision, no access, no network; the text says which.
    """
    match = _NAME.fullmatch(source.removeprefix(PREFIX))
    if match is None:
        raise CheckpointError(f"{source!r} is not hf:OWNER/NAME or hf:OWNER/NAME@revision")
    repository, revision = match["repository"], match["revision"]
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
        from huggingface_hub.errors import RevisionNotFoundError as NoRevisionError
    except ImportError:
        raise CheckpointError("hf: sources need huggingface_hub; install it with `pip install huggingface_hub`") from None
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=WANTED))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=WANTED + FALLBACK))
    except GatedRepoError:
        raise CheckpointError(f"{repository} asks for consent: accept its terms on the hub, then set HF_TOKEN") from None
    except NoRevisionError:
        raise CheckpointError(f"{repository} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"the hub has no model {repository!r}, or it is private and HF_TOKEN is not set") from None
    except LocalEntryNotFoundError:
        raise CheckpointError(f"{repository} cannot be fetched: the hub does not answer, and the cache does not have it") from None
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{repository} cannot be fetched: {(str(error).strip() or repr(error)).splitlines()[0]}") from error
    # The cache names a snapshot's folder after its commit.
    return HubSource(repository, folder.name, folder)
