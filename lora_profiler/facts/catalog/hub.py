"""A model's config.json from the local Hugging Face cache, else from the hub with one request,
limited in time and in size.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are read by huggingface_hub itself.
`hf_hub_download` is not used: without a network it tries again for 23 seconds.
"""

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from lora_profiler.errors import ModelNotFoundError
from lora_profiler.facts.catalog.bundled import similar_names

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
            f"unknown model {name}.{similar_names(name)} Offline ({why}): only bundled and cached"
            " models are known. List them: `lora-profile models`"
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
            f"the config.json of {name} did not arrive within {WHOLE_SECONDS:g} seconds. Server:"
            f" {constants.ENDPOINT}. Try again later, or give the path of a config.json."
        ) from None
    except TooLargeError:
        raise ModelNotFoundError(
            f"the config.json of {name} is larger than {max_bytes} bytes. From"
            f" {constants.ENDPOINT}; most have a few thousand. Give the path of a config.json."
        ) from None
    except connection_errors as e:
        reason = str(e).rstrip(".") or type(e).__name__
        raise ModelNotFoundError(
            f"unknown model {name}.{similar_names(name)} It is not bundled or cached, and"
            f" {constants.ENDPOINT} cannot be reached: {reason}. Check the connection, or give the"
            " path of a config.json."
        ) from None


def is_cached(name: str, file: str, revision: str) -> bool:
    """Whether the local cache has a file of a hub model."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, file, revision=revision), str)


def _headers() -> dict[str, str]:
    """The user's token and nothing about this machine; huggingface_hub's own headers cost a request
    of their own."""
    from huggingface_hub import constants, get_token

    token = None
    if not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        with suppress(OSError):  # the token file is another user's
            token = get_token()
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
        message = f"{name} is gated and not bundled. Accept its licence on {page}, then {LOG_IN}."
    elif isinstance(error, RevisionNotFoundError):
        message = (
            f"{name} has no revision {revision!r}. All of them: {page}/commits. Or leave --revision"
            " out."
        )
    elif isinstance(error, EntryNotFoundError):
        message = (
            f"{name} has no config.json at {revision}. For an adapter name its base model; for GGUF"
            " files name the original model."
        )
    elif status == 404:
        message = (
            f"unknown model {name}.{similar_names(name)} It is not on {constants.ENDPOINT}, or is"
            " private."
        )
    elif isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        message = (
            f"{name} is private or unknown.{similar_names(name)} If private: {LOG_IN} with a"
            " token for it."
        )
    else:
        message = (
            f"{constants.ENDPOINT} answered {status} for {name}. Try again later, or give a"
            " config.json."
        )
    raise ModelNotFoundError(message) from None


# --- one request whose whole answer has a limit ---------------------------------------------------


ERROR_HEADERS = ("X-Error-Code", "X-Error-Message")


class TooSlowError(Exception):
    """The answer was not there in time."""


class TooLargeError(Exception):
    """The answer has more bytes than allowed; no more than those were read."""


def limited_get(
    url: str, headers: dict[str, str], *, read_seconds: float, whole_seconds: float, max_bytes: int
) -> bytes:
    """The body that `url` answers with, redirects followed. The client's own time-out is for each
    read, which a server that sends a byte now and then never meets: so the answer is awaited in a
    thread, which is left alone when time is up.

    Raises TooSlowError, TooLargeError, HfHubHTTPError for a status that is an error, and what the
    client raises.
    """
    from huggingface_hub import close_session

    body: list[bytes] = []
    failure: list[BaseException] = []

    def fetch() -> None:
        try:
            body.append(_body(url, headers, read_seconds, max_bytes))
        except BaseException as e:  # handed on to whoever waits
            failure.append(e)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(whole_seconds)
    if thread.is_alive():
        # its next read fails then, and the thread ends; the next request opens another session
        close_session()
        raise TooSlowError
    if failure:
        raise failure[0]
    return body[0]


def _body(url: str, headers: dict[str, str], read_seconds: float, max_bytes: int) -> bytes:
    from huggingface_hub import get_session

    with get_session().stream(
        "GET", url, headers=headers, timeout=read_seconds, follow_redirects=True
    ) as response:
        if response.is_error:
            _raise_for(response)
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            raise TooLargeError
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > max_bytes:
                raise TooLargeError
        return body


def _raise_for(response: Any) -> None:
    """What the hub says of an error stands in its headers; the body, which would be read whole, is
    left out.

    `Any`: the client is httpx in huggingface_hub 1.x, httpx2 in 2.x.
    """
    from huggingface_hub import hf_raise_for_status

    headers = {name: response.headers[name] for name in ERROR_HEADERS if name in response.headers}
    hf_raise_for_status(
        type(response)(response.status_code, headers=headers, request=response.request)
    )
