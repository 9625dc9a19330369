"""`lora-profile app`: who may reach it, what it refuses, how it ends. No browser here; see
test_dashboard_browser.py."""

import signal
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dashboard_client import cookie_of
from lora_profiler.cli import app as cli_app
from lora_profiler.cli.main import root
from lora_profiler.errors import UsageError
from serving import healthy, served


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["app", *arguments], standalone_mode=False)


def upgraded(port: int, **headers: str) -> int:
    """The status that a request for the page's own connection gets."""
    fields = {
        "Host": f"127.0.0.1:{port}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": f"http://127.0.0.1:{port}",
        **headers,
    }
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.sendall(f"GET /_stcore/stream HTTP/1.1\r\n{text}\r\n".encode())
        return int(connection.recv(200).split()[1])


def test_it_is_served_to_this_machine_alone_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    with served(tmp_path) as (process, port, entrance):
        for family, address in {
            (info[0], info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)
        }:
            if family == socket.AF_INET and not str(address).startswith("127."):
                assert not healthy(port, str(address))
        cookie = cookie_of(entrance)
        assert upgraded(port, Cookie=cookie) == 101
        rebound = {
            "Host": f"evil.invalid:{port}",
            "Origin": f"http://evil.invalid:{port}",
        }  # as DNS rebinding would have it
        assert upgraded(port, Cookie=cookie, **rebound) >= 400
        assert upgraded(port, Cookie=cookie, Host=f"evil.invalid:{port}") >= 400
        assert upgraded(port, Cookie=cookie, Origin="http://evil.invalid") >= 400
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert (
            out.strip() == "" and "Traceback" not in err and entrance.partition("=")[2] not in err
        )


def test_what_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_app, "missing", lambda needed: [needed[0]])
    error = invoke().exception
    assert isinstance(error, UsageError)
    assert str(error) == "the dashboard needs streamlit: pip install 'lora-profiler[app]'."


def test_records_that_are_not_there_are_refused_before_anything_starts(tmp_path: Path) -> None:
    error = invoke("--records", str(tmp_path / "nothing.jsonl")).exception
    assert isinstance(error, UsageError) and "there is no such file or folder" in str(error)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What streamlit would have been given."""
    import streamlit.web.cli

    found: list[list[str]] = []
    monkeypatch.setattr(
        streamlit.web.cli, "main", lambda arguments, **more: found.append(arguments)
    )
    return found


def test_a_port_in_use_is_refused_when_it_was_named_and_else_passed_over(
    started: list[list[str]],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = invoke("--port", str(port)).exception
        assert isinstance(error, UsageError) and f"port {port} is in use" in str(error)
        assert cli_app._free_port(port, 5) in range(port + 1, port + 5)
        with pytest.raises(UsageError, match="name one with --port"):
            cli_app._free_port(port, 1)
    assert started == []


def test_records_are_handed_over_as_absolute_paths(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.jsonl").touch()
    assert invoke("--records", "r.jsonl", "--records", ".", "--no-browser").exception is None
    (arguments,) = started
    place = arguments.index("--")
    assert arguments[place + 1 :] == [
        "--records",
        str(tmp_path / "r.jsonl"),
        "--records",
        str(tmp_path),
    ]
    assert "--server.headless=true" in arguments and "--server.address=127.0.0.1" in arguments
    assert Path(arguments[1]).name == "served.py" and Path(arguments[1]).is_file()


@pytest.mark.parametrize(("display", "headless"), [("", "true"), (":0", "false")])
def test_a_browser_is_opened_where_there_is_a_display(
    display: str, headless: str, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    invoke()
    assert f"--server.headless={headless}" in started[0]


def test_a_wrong_port_is_refused() -> None:
    assert "65535" in str(invoke("--port", "70000").exception)
