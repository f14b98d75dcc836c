"""The outage lab without a browser: its page, its stream, and what each button does and heals."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testproject import guard
from testproject.comparison import ROOT

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.psycopg3]

PATIENCE = 60.0
#: What the log has to say of each fault, in the engine's own words.
CAUSES = {
    "sessions": "terminated by administrator",
    "restart": "terminated by administrator",
    "crash": "a server process crashed",
    "failover": "the server or the pooler was shutting down",
    "refuse": "is not accepting connections",
    "commit": "Its transaction has committed",
    "silence": "the network path to the server broke",
    "idle": "idle_session_timeout",
}
#: What nobody can know is raised: a COMMIT that was under way when the server died.
UNKNOWN = "may or may not have taken effect"


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that runs, and a browser's part of the conversation."""

    process: subprocess.Popen[str]
    port: int

    def send(self, method: str, path: str, **headers: str) -> tuple[int, str, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as link:
            link.request(
                method, path, headers={key.replace("_", "-"): headers[key] for key in headers}
            )
            answer = link.getresponse()
            return answer.status, answer.read().decode(), answer.headers

    def token(self) -> dict[str, str]:
        _, body, headers = self.send("GET", "/")
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', body)
        assert found
        return {"Cookie": headers["Set-Cookie"].split(";")[0], "X_CSRFToken": found[1]}

    def news(self) -> dict[str, Any]:
        """The first event of a stream: all that is known."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as link:
            link.request("GET", "/stream/")
            answer = link.getresponse()
            assert answer.headers["Content-Type"] == "text/event-stream"
            news: dict[str, Any] = json.loads(answer.readline().removeprefix(b"data: "))
            return news

    def wait(self, seen: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while not seen(news := self.news()):
            assert time.monotonic() < deadline, json.dumps(news)
            time.sleep(0.1)
        return news


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    command = [sys.executable, "-m", "testproject.lab", "--port=0", "--pace=0.5"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = (re.search(r"http://127\.0\.0\.1:(\d+)/", line) for line in process.stdout)
            made = Lab(process, int(next(each[1] for each in found if each)))
            made.wait(
                lambda news: all(side["counters"]["answered"] for side in news["sides"].values())
            )
            yield made
        finally:
            process.kill()


def gained(news: dict[str, Any], before: dict[str, Any], side: str, counter: str) -> int:
    count: int = (
        news["sides"][side]["counters"][counter] - before["sides"][side]["counters"][counter]
    )
    return count


def lines(news: dict[str, Any], before: dict[str, Any], side: str) -> list[str]:
    told = max((entry["change"] for entry in before["log"]), default=0)
    return [
        entry["text"] for entry in news["log"] if entry["source"] == side and entry["change"] > told
    ]


def test_the_page_has_every_button_and_lets_nothing_else_in(lab: Lab) -> None:
    status, body, headers = lab.send("GET", "/")
    assert status == 200
    for name in CAUSES:
        assert f'data-fault="{name}"' in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.search(r'(src|href|action)="(https?:)?//', body)
    for file in re.findall(r'(?:src|href)="(/static/[^"]+)"', body):
        assert lab.send("GET", file)[0] == 200, file


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
def test_other_hosts_are_refused(lab: Lab, host: str) -> None:
    assert lab.send("GET", "/", Host=host)[0] == 400
    assert lab.send("GET", "/stream/", Host=host)[0] == 400


def test_what_comes_from_another_page_breaks_nothing(lab: Lab) -> None:
    path, own = "/faults/sessions/", lab.token()
    assert lab.send("POST", path)[0] == 403
    assert lab.send("POST", path, **own, Origin="https://evil.example")[0] == 403
    assert lab.send("POST", path, **own, Host="evil.example")[0] == 400
    assert lab.send("GET", path, **own)[0] == 405
    assert lab.send("POST", "/faults/nothing/", **own)[0] == 404
    assert lab.news()["status"]["fault"] is None


@pytest.mark.parametrize("name", CAUSES)
def test_a_button_breaks_the_stock_application_alone(lab: Lab, name: str) -> None:
    over = lab.wait(lambda news: news["status"]["fault"] is None)
    # Until both have connections again, which can be lost.
    before = lab.wait(
        lambda news: all(
            gained(news, over, side, "answered") > 12 for side in ("stock", "resilient")
        )
    )
    status, body, _ = lab.send("POST", f"/faults/{name}/", **lab.token())
    assert (status, json.loads(body)) == (202, {"fault": name})

    def is_over(news: dict[str, Any]) -> bool:
        return (
            news["status"]["fault"] is None
            and gained(news, before, "stock", "failed") > 0
            and gained(news, before, "resilient", "healed") > 0
            and (name != "commit" or gained(news, before, "stock", "doubled") > 0)
            and any(CAUSES[name] in text for text in lines(news, before, "resilient"))
        )

    news = lab.wait(is_over)
    assert news["marks"][-1]["fault"] == name
    assert news["marks"][-1]["ended"]
    assert news["status"]["standby"]
    unknown = sum(UNKNOWN in text for text in lines(news, before, "resilient"))
    assert unknown == 0 or name in ("crash", "failover")
    assert gained(news, before, "resilient", "failed") == unknown, news["log"]
    assert gained(news, before, "resilient", "doubled") == 0
    assert gained(news, before, "resilient", "lost") == 0
    assert "did not work" not in str(lines(news, before, "lab"))


def test_one_fault_at_a_time(lab: Lab) -> None:
    own = lab.token()
    lab.wait(lambda news: news["status"]["fault"] is None)
    assert lab.send("POST", "/faults/refuse/", **own)[0] == 202
    assert lab.send("POST", "/faults/sessions/", **own)[0] == 409
    lab.wait(lambda news: news["status"]["fault"] is None)


def test_no_secret_is_shown(lab: Lab) -> None:
    environments = [
        Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        for pid in descendants(lab.process.pid)
    ]
    found = [each.decode() for several in environments for each in several]
    secrets = {each.partition("=")[2] for each in found if each.startswith("DATABASE_PASSWORD=")}
    assert len(secrets) == 1
    shown = json.dumps(lab.news()) + lab.send("GET", "/")[1]
    assert not any(secret in shown for secret in secrets)
    assert "token=" not in shown


def test_ctrl_c_leaves_nothing_behind(lab: Lab) -> None:
    family = descendants(lab.process.pid)
    folders = {Path(f"/proc/{pid}/cwd").resolve() for pid in family} - {ROOT, Path("/")}
    assert len(family) > 10
    assert any(folder.name == "data" for folder in folders)
    lab.process.send_signal(signal.SIGINT)
    assert lab.process.wait(PATIENCE) == 130
    assert guard.wait_gone(family, PATIENCE)
    assert not [folder for folder in folders if os.path.lexists(folder)]


def descendants(pid: int) -> list[int]:
    return [each for child in guard.children(pid) for each in (child, *descendants(child))]
