"""Who gets into the dashboard: whoever has the token of its address, from its own page, and nobody
else on the machine."""

import stat
import sys
import time
import webbrowser
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from websockets.exceptions import InvalidStatus

from dashboard_client import asked, cookie_of, press
from lora_profiler.dashboard.serving import opened
from serving import ROOT, Served, healthy, served
from waiting import wait_until

MEASURE = "page=measure&model=EleutherAI%2Fpythia-14m&seq-len=32&dtype=float32&method=lora"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data")) as found:
        yield found


def has_started(server: Served, seconds: float) -> bool:
    """Whether the server has a process of its own within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if psutil.Process(server.process.pid).children(recursive=True):
            return True
        time.sleep(0.02)
    return False


@contextmanager
def watching(server: Served, seconds: float) -> Iterator[Future[bool]]:
    """Whether it has one, looked for from now on until so many seconds after what is done meanwhile:
    what is refused may end before the page is drawn again."""
    done = Event()

    def watch() -> bool:
        while not done.is_set():
            if has_started(server, 0.02):
                return True
        return has_started(server, seconds)

    with ThreadPoolExecutor() as threads:
        try:
            yield threads.submit(watch)
        finally:
            done.set()


def refusal(server: Served, **headers: str) -> int | None:
    """The status that a try to press the button is refused with; None where it is pressed."""
    try:
        press(server.port, "Start measuring", MEASURE, **headers)
    except InvalidStatus as e:
        return e.response.status_code
    return None


OTHERS = (None, "http://localhost:9999", "http://127.0.0.1:9999")


def test_without_the_token_or_from_another_page_nobody_starts_a_process(server: Served) -> None:
    """With the cookie too, as a page of another port would have it, to which the browser sends
    it."""
    without = [(origin, "") for origin in (*OTHERS, f"http://127.0.0.1:{server.port}")]
    cookie = cookie_of(server.address)
    with_it = [(origin, cookie) for origin in (*OTHERS, f"http://localhost:{server.port}", "null")]
    refused = {}
    with watching(server, 2) as started:
        for origin, brought in without + with_it:
            headers = {} if origin is None else {"Origin": origin}
            refused[origin, bool(brought)] = refusal(
                server, **headers, **({"Cookie": brought} if brought else {})
            )
    assert not started.result()
    assert set(refused.values()) == {403}, refused


def test_its_own_page_starts_one(server: Served) -> None:
    """So that the refusals above are no fault of the client's."""
    with watching(server, 60) as started:
        own = {"Cookie": cookie_of(server.address), "Origin": f"http://127.0.0.1:{server.port}"}
        assert refusal(server, **own) is None
    assert started.result()
    for process in psutil.Process(server.process.pid).children(recursive=True):
        process.kill()


@pytest.mark.parametrize(
    "path",
    [
        *("", "?page=measure", "?token=", "?token=%C3%A9"),
        *("_stcore/host-config", "static/index.html", "media/x", "lora-profiler/figures.js"),
    ],
)
def test_without_the_token_nothing_is_answered(path: str, server: Served) -> None:
    answer = asked(
        f"http://127.0.0.1:{server.port}/{path}", Cookie=f"lora_profiler_{server.port}=x"
    )
    assert answer.status == 403 and "Set-Cookie" not in answer.headers
    assert "Open the whole address that was printed" in answer.text
    assert healthy(server.port)  # which says no more than that


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(server: Served) -> None:
    answer = asked(f"{server.address}&model=gpt2&method=full&method=lora")
    assert answer.status == 303
    assert (
        answer.headers["Location"]
        == f"http://127.0.0.1:{server.port}/?model=gpt2&method=full&method=lora"
    )
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "Path=/", "SameSite=lax"}
    page = asked(answer.headers["Location"], Cookie=cookie)
    assert page.status == 200 and "<title>Streamlit</title>" in page.text
    assert page.headers["Content-Security-Policy"] == "frame-ancestors 'none'"


def token_of(server: Served) -> str:
    (token,) = parse_qs(urlsplit(server.address).query)["token"]
    return token


def test_the_token_stands_where_other_users_see_nothing(server: Served) -> None:
    """In no process's arguments, and in no environment that a process it starts would inherit."""
    process = psutil.Process(server.process.pid)
    assert len(token_of(server)) >= 32
    for text in (*process.cmdline(), *process.environ().values()):
        assert token_of(server) not in text


def test_streamlit_run_has_the_same_door_and_a_token_of_its_own(
    server: Served, tmp_path: Path
) -> None:
    options = ("--server.headless", "true", "--server.port")
    command = (sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), *options)
    with served(tmp_path, *command) as other:
        assert token_of(other) != token_of(server)
        assert asked(f"http://127.0.0.1:{other.port}/").status == 403
        assert asked(other.address).status == 303
        assert refusal(other) == 403


def test_what_was_started_ends_with_the_server(tmp_path: Path) -> None:
    """At SIGTERM too, by which a window or a machine that closes ends it."""
    with served(tmp_path) as found:
        press(
            found.port,
            "Start measuring",
            "page=measure&model=EleutherAI%2Fpythia-14m&method=lora&seq-len=256&dtype=float32",
            Cookie=cookie_of(found.address),
            Origin=f"http://127.0.0.1:{found.port}",
        )
        assert has_started(found, 5)
        children = psutil.Process(found.process.pid).children(recursive=True)
        found.process.terminate()
        found.process.wait(60)
        _, alive = psutil.wait_procs(children, 0)
        assert not alive


WATCH = """
import sys

def heard(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto"):
        with open({path!r}, "a") as file:
            print(event, arguments[-1] if event != "socket.getaddrinfo" else arguments[0], file=file)

sys.addaudithook(heard)
"""


def test_an_origin_from_elsewhere_makes_the_server_ask_nobody(tmp_path: Path) -> None:
    """By Python's own audit of every socket of the process; streamlit would ask an outside service
    for its address."""
    log = tmp_path / "asked.txt"
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(path=str(log)))
    with served(tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}") as found:
        for origin in ("http://evil.invalid", "http://192.0.2.1:80", "http://127.0.0.1:9999"):
            for cookie in ("", cookie_of(found.address)):
                assert refusal(found, Cookie=cookie, Origin=origin) == 403
        own = {"Cookie": cookie_of(found.address), "Origin": f"http://127.0.0.1:{found.port}"}
        assert refusal(found, **own) is None
    assert not log.exists(), log.read_text()


def test_the_browser_is_handed_a_file_of_this_user_s_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since all users see what a browser is started with."""
    handed: list[str] = []
    monkeypatch.setattr(webbrowser, "open", handed.append)
    with opened("http://127.0.0.1:8501/?token=secret"):
        wait_until(lambda: handed)
        (uri,) = handed
        page = Path(urlsplit(uri).path)
        assert "secret" not in uri and "token=secret" in page.read_text()
        assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    assert not page.parent.exists()
