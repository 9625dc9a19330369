"""A model's config.json from the local Hugging Face cache, else from the hub with one request,
limited in time and in size.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are read by huggingface_hub itself.
`hf_hub_download` is not used: without a network it tries again for 23 seconds.
"""

from typing import TYPE_CHECKING, NoReturn

from lora_profiler.catalog.bundled import similar_names
from lora_profiler.errors import ModelNotFoundError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

TIMEOUT_SECONDS = 5.0
"""For each read of an answer."""
WHOLE_SECONDS = 15.0
"""For the whole answer, redirects included."""
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def config_json(name: str, *, revision: str, offline: bool, max_bytes: int) -> bytes:
    """config.json of the hub model `name` at `revision`. Raises ModelNotFoundError with the reason
    and the next step."""
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from lora_profiler.catalog.limited_get import TooLargeError, TooSlowError, limited_get

    # The HTTP client's own base class (httpx in huggingface_hub 1.x, httpx2 in 2.x), without naming
    # the client.
    connection_errors: tuple[type[BaseException], ...] = (HfHubHTTPError.__bases__[0], OSError)
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        url = hf_hub_url(name, "config.json", revision=revision)
    except HFValidationError as e:
        raise ModelNotFoundError(f"{name!r} is no hub id: {str(e).splitlines()[0]}") from None
    if isinstance(cached, str):
        with open(cached, "rb") as file:
            return file.read()
    if offline or constants.HF_HUB_OFFLINE:
        why = "--offline" if offline else "HF_HUB_OFFLINE"
        raise ModelNotFoundError(
            f"{name} is neither bundled nor in the local Hugging Face cache, and {why} forbids to"
            " ask the hub. Go online once, or give the path of its"
            f" config.json.{similar_names(name)}"
        )
    try:
        return limited_get(
            url,
            _headers(),
            read_seconds=TIMEOUT_SECONDS,
            whole_seconds=WHOLE_SECONDS,
            max_bytes=max_bytes,
        )
    except HfHubHTTPError as e:
        _explain(e, name, revision)
    except TooSlowError:
        raise ModelNotFoundError(
            f"The hub ({constants.ENDPOINT}) did not send the config.json of {name} within"
            f" {WHOLE_SECONDS:g} seconds. Try again later, or give the path of a config.json."
        ) from None
    except TooLargeError:
        raise ModelNotFoundError(
            f"The config.json of {name} on the hub ({constants.ENDPOINT}) is larger than"
            f" {max_bytes} bytes; one has a few thousand. Give the path of a config.json."
        ) from None
    except connection_errors as e:
        reason = str(e).rstrip(".") or type(e).__name__
        raise ModelNotFoundError(
            f"{name} is neither bundled nor in the local Hugging Face cache, and the hub"
            f" ({constants.ENDPOINT}) cannot be reached: {reason}. Check the connection, or give"
            f" the path of a config.json.{similar_names(name)}"
        ) from None


def _headers() -> dict[str, str]:
    """The user's token and nothing about this machine; huggingface_hub's own headers cost a request
    of their own."""
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"user-agent": "lora-profiler"} | ({"authorization": f"Bearer {token}"} if token else {})


def _explain(error: "HfHubHTTPError", name: str, revision: str) -> NoReturn:
    """The hub's answer in words. For a private model and for none at all it gives the same one to
    whoever is not logged in."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page, status = f"{constants.ENDPOINT}/{name}", error.response.status_code
    if isinstance(error, GatedRepoError):
        message = f"{name} is gated. Accept its licence on {page}, then {LOG_IN}."
    elif isinstance(error, RevisionNotFoundError):
        message = (
            f"{name} has no revision {revision!r}. See {page}/commits for those it has, or leave"
            " --revision out."
        )
    elif isinstance(error, EntryNotFoundError):
        message = (
            f"{name} has no config.json at {revision}. For an adapter give its base model, for GGUF"
            " files the model that they were made from."
        )
    elif status == 404:
        message = (
            f"There is no model {name} on the hub ({constants.ENDPOINT}), or it is not yours to"
            f" see.{similar_names(name)}"
        )
    elif isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        message = (
            f"{name} is private, or there is no such model: the hub shows it to nobody without the"
            f" right token. If it is yours, {LOG_IN} with a token that may read"
            f" it.{similar_names(name)}"
        )
    else:
        message = (
            f"The hub ({constants.ENDPOINT}) answered {status} for {name}. Try again later, or give"
            " a config.json."
        )
    raise ModelNotFoundError(message) from None
