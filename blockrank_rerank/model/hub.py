"""Files of a model of the Hub, in the local cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def fetch(model: str, names: Sequence[str], revision: str | None, *, local_files_only: bool, token: str | None) -> Path:
    """Fetch those of these files that a model of the Hub has, into the local cache; their folder there.

    Raises
    ------
    FileNotFoundError
        For a model, or a revision, that is not there; where the network may not be used, in the cache.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = snapshot_download(
            model,
            allow_patterns=list(names),
            revision=revision,
            local_files_only=local_files_only,
            token=token,
        )
    except GatedRepoError as error:
        raise FileNotFoundError("access to it is restricted: ask for it on its page, and give a token") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError("the Hub has no such model, or it is private and needs a token") from error
    except LocalEntryNotFoundError as error:
        if local_files_only or constants.is_offline_mode():
            raise FileNotFoundError(
                "it is not in the local cache of the Hub, and the network may not be used (local_files_only, "
                "HF_HUB_OFFLINE, or the base of an adapter in a folder): "
                f"hf download {model}, or give a folder"
            ) from error
        raise
    return Path(folder)
