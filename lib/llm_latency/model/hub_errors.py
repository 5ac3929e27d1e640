"""What keeps a file on the Hugging Face Hub from being had, each as one sentence.

The Hub's client fails in many ways; here each becomes a sentence that says what to do next, with
the nearest name where a name is wrong.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from llm_latency.errors import LabError, ParameterError, did_you_mean
from llm_latency.model import parts

DENIED = (401, 403)
"""Answers of a Hub that wants to know who asks, or that the licence was accepted."""


def explain(error: Exception, repo: str, file: str, revision: str | None) -> LabError:
    """Return what stopped the Hub's client as one sentence that ends in what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LabError):
        return error
    full, page = f"hf:{repo}/{file}", f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, HFValidationError):
        return ParameterError(
            f"model={full!r} is no name on the Hub ({first_line(error)}); "
            "give hf:owner/repo/file.gguf"
        )
    if _token_refused(error):
        return LabError(
            f"your token is not valid at {constants.ENDPOINT}, which refuses it for public files "
            "too: renew it with 'hf auth login', or unset HF_TOKEN, and call again"
        )
    if isinstance(error, GatedRepoError):
        return LabError(
            f"{repo} is gated on the Hub: accept its licence at {page}, log in with "
            "'hf auth login', and call again"
        )
    if isinstance(error, RevisionNotFoundError):
        return LabError(
            f"{repo} has no revision {revision!r} on the Hub"
            f"{did_you_mean(revision or '', _revisions(repo))} Give a branch, a tag or a commit."
        )
    if isinstance(error, RepositoryNotFoundError):
        return LabError(
            f"{repo} is not on the Hub, or is private or gated: check the name; if it is right, "
            f"accept its licence at {page}, log in with 'hf auth login', and call again"
        )
    if status_of(error) in DENIED:
        return LabError(
            f"the Hub denies you {full} (status {status_of(error)}): accept its licence at "
            f"{page}, log in with 'hf auth login', and call again"
        )
    if is_missing(error):
        where = f"{repo}@{revision}" if revision else repo
        if Path(file) != parts.of(Path(file))[0]:
            return LabError(
                f"{where} lacks {file} on the Hub, a part of the model; give a model or a "
                "revision of it that is there whole"
            )
        return LabError(
            f"{file} is not in {where} on the Hub{did_you_mean(file, _files(repo, revision))} "
            "Give the name of a file that is there."
        )
    missing = f"{full} is not in the cache ({constants.HF_HUB_CACHE})"
    if isinstance(error, OfflineModeIsEnabled):
        return LabError(
            f"{missing}, and HF_HUB_OFFLINE forbids to fetch it; unset HF_HUB_OFFLINE, or give "
            "the path of a file that you have"
        )
    return LabError(
        f"{missing}, and {said(error)}; check the network and call again, or give the path of a "
        "file that you have"
    )


def _token_refused(error: Exception) -> bool:
    """Tell whether the Hub does not know the token that it was sent.

    Where it knows the token and has nothing for it, it says 403 or 404, or why.
    """
    response = getattr(error, "response", None)
    if response is None or status_of(error) != 401:
        return False
    return "Authorization" in response.request.headers and "X-Error-Code" not in response.headers


def said(error: Exception) -> str:
    """Return in words how the Hub could not be asked."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if _token_refused(error):
        return f"{constants.ENDPOINT} refuses your token: renew it, or unset HF_TOKEN"
    status = status_of(error)
    if status is not None:
        return f"{constants.ENDPOINT} answers with status {status}"
    return f"{constants.ENDPOINT} cannot be reached ({first_line(error)})"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text; its name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")


def status_of(error: Exception) -> int | None:
    """Return the HTTP status that an error carries; ``None`` if the Hub did not answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def is_missing(error: Exception) -> bool:
    """Tell whether the Hub says that the file or the revision is not there."""
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    # A mirror may say 404 and no more.
    gone = status_of(error) == 404 and not isinstance(error, RepositoryNotFoundError)
    return gone or isinstance(error, EntryNotFoundError)


def _files(repo: str, revision: str | None) -> list[str]:
    """Return the GGUF files of a repository; none if the Hub does not tell."""
    from huggingface_hub import HfApi, constants

    with contextlib.suppress(Exception):  # only a help beside an error that is told anyway
        told = HfApi(endpoint=constants.ENDPOINT).model_info(repo, revision=revision)
        names = [file.rfilename for file in told.siblings or []]
        return [name for name in names if name.endswith(".gguf")]
    return []


def _revisions(repo: str) -> list[str]:
    """Return the branches and tags of a repository; none if the Hub does not tell."""
    from huggingface_hub import HfApi, constants

    with contextlib.suppress(Exception):
        told = HfApi(endpoint=constants.ENDPOINT).list_repo_refs(repo)
        return [ref.name for ref in (*told.branches, *told.tags)]
    return []
