"""A client of the dashboard that is no browser: it speaks Streamlit's own protocol, as any program
on the machine could."""

import urllib.error
import urllib.request
from http.client import HTTPMessage
from typing import Any, NamedTuple

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect


class Answer(NamedTuple):
    status: int
    headers: HTTPMessage
    text: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def asked(address: str, **headers: str) -> Answer:
    """What the address answers, not followed any further."""
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=10) as answer:
            return Answer(answer.status, answer.headers, answer.read().decode())
    except urllib.error.HTTPError as e:
        return Answer(e.code, e.headers, e.read().decode())


def cookie_of(address: str) -> str:
    """What the address with the token brings, as a browser would send it again."""
    return str(asked(address).headers["Set-Cookie"]).partition(";")[0]


def press(port: int, label: str, query: str, **headers: str) -> None:
    """Opens the page of `query` and presses its button with this label, and waits until the page is
    drawn again.

    Raises what `websockets` raises where it is refused.
    """
    with connect(
        f"ws://127.0.0.1:{port}/_stcore/stream", additional_headers=headers, max_size=None
    ) as socket:
        _run(socket, query)
        (found,) = [button for button in _buttons(socket) if button.label == label]
        _run(socket, query, found.id)
        _buttons(socket)


def _buttons(socket: Any) -> list[Any]:
    """Those of the page, when it is drawn to its end."""
    found = []
    while True:
        message = ForwardMsg.FromString(socket.recv(timeout=30))
        if (
            message.WhichOneof("type") == "script_finished"
            and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY
        ):
            return found
        if message.delta.new_element.HasField("button"):
            found.append(message.delta.new_element.button)


def _run(socket: Any, query: str, pressed: str | None = None) -> None:
    message = BackMsg()
    message.rerun_script.query_string = query
    if pressed is not None:
        message.rerun_script.widget_states.widgets.add(id=pressed, trigger_value=True)
    socket.send(message.SerializeToString())
