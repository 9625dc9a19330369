"""One request of the hub's session whose whole answer has a limit, in seconds and in bytes.

The client's own time-out is for each read: a server that sends a byte now and then never meets it.
So the answer is awaited in a thread, which is left alone when time is up.
"""

import threading
from typing import Any

ERROR_HEADERS = ("X-Error-Code", "X-Error-Message")


class TooSlowError(Exception):
    """The answer was not there in time."""


class TooLargeError(Exception):
    """The answer has more bytes than allowed; no more than those were read."""


def limited_get(
    url: str, headers: dict[str, str], *, read_seconds: float, whole_seconds: float, max_bytes: int
) -> bytes:
    """The body that `url` answers with, redirects followed.

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
