"""The endpoint writer against servers on this machine: one that fails in every way, and a real one.

``transformers serve`` serves a small model that the tests train to know two stories by heart.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from personalib.book.chapters import RunError
from personalib.book.runs import run_notebook
from personalib.stimuli.assignments import Keywords, LifeStory
from personalib.stimuli.backgrounds import draw_backgrounds
from personalib.stimuli.endpoint import EndpointWriter, connect
from personalib.stimuli.grammar_writer import GrammarWriter
from personalib.stimuli.paper_files import load_backgrounds, publish, save_backgrounds
from personalib.stimuli.writers import Unusable, WriterError

PEOPLE = draw_backgrounds(6, seed=4)
STORY = LifeStory()
SECRET = "sk-loopback-4f1d6c0b9a"


def by_request(content):
    """The person that a request is about."""
    return next(one for one in PEOPLE if all(text in content for text in one.sentences().values()))


def completion(content, finish="stop", refusal=None):
    """A chat completion as a server sends it."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


class Server:
    """A chat-completion server that answers as `plan` says: what comes for the first request, the second, and so on.

    An entry is a status, a text for the whole body, or a function of the request that gives the completion; the last
    one stays.
    """

    def __init__(self, *plan, delay=0.0):
        self.plan, self.delay, self.requests, self.busy, self.most_busy = plan, delay, [], 0, 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.answer(self, body)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._http.server_port}/v1"

    def answer(self, handler, body):
        with self._lock:
            entry = self.plan[min(len(self.requests), len(self.plan) - 1)]
            self.requests.append((handler.path, handler.headers["Authorization"], body))
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        time.sleep(self.delay)
        key = (handler.headers["Authorization"] or "").removeprefix("Bearer ")
        code, entry = entry if isinstance(entry, tuple) else ("c", entry)
        if isinstance(entry, int):
            said = {"message": f"no: your key {key}, {key[:12]} and {entry}", "type": "t", "code": code}
            status, sent = entry, json.dumps({"error": said})
        else:
            status, sent = 200, entry if isinstance(entry, str) else json.dumps(entry(body))
        with self._lock:
            self.busy -= 1
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            if status == 429:
                handler.send_header("Retry-After-Ms", "5")
            handler.end_headers()
            handler.wfile.write(sent.encode())
        except ConnectionError:
            pass  # the client was killed

    def close(self):
        self._http.shutdown()
        self._http.server_close()


def write_story(body):
    """The grammar writer's story, sent as a language model would send it."""
    one = by_request(body["messages"][-1]["content"])
    return completion(GrammarWriter().write(STORY, one, 0, []).model_dump_json())


@pytest.fixture
def point_to(monkeypatch):
    """Has the environment point to an address."""

    def set_environment(address, key=SECRET):
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        monkeypatch.setenv("OPENAI_API_KEY", key)

    return set_environment


@pytest.fixture
def serve(point_to):
    """Starts a server and has the environment point to it."""
    started = []

    def start(*plan, **settings):
        started.append(Server(*plan, **settings))
        point_to(started[-1].address)
        return started[-1]

    yield start
    for server in started:
        server.close()


def write(one=PEOPLE[0], retries=3, timeout=10.0):
    return EndpointWriter(connect(timeout, retries), "m").write(STORY, one, 0, [])


def test_a_request_asks_for_json_after_the_schema_and_gets_a_draft(serve):
    server = serve(write_story)
    assert write() == GrammarWriter().write(STORY, PEOPLE[0], 0, [])
    [(path, authorization, body)] = server.requests
    assert path == "/v1/chat/completions" and authorization == f"Bearer {SECRET}"
    assert body["model"] == "m" and [turn["role"] for turn in body["messages"]] == ["user"]
    form = body["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"] == STORY.form(PEOPLE[0]).model_json_schema()


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_passing_fault_is_tried_again(serve, status):
    server = serve(status, status, write_story)
    assert write().work
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "problem", "requests"),
    [
        (429, "asks for fewer requests, 3 times", 3),
        (500, "failed 3 times, last with", 3),
        *((status, "does not accept the key in OPENAI_API_KEY for the model 'm'", 1) for status in (401, 403)),
        (404, "has no model 'm', or OPENAI_BASE_URL needs another path", 1),
        *((status, "refused the request", 1) for status in (400, 422)),
        (("insufficient_quota", 429), "no quota left", 3),
    ],
)
def test_a_lasting_fault_is_one_clear_error_without_the_key(serve, status, problem, requests):
    server = serve(status)
    with pytest.raises(WriterError, match=problem) as error:
        write(retries=2)
    assert len(server.requests) == requests
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None and error.value.__context__ is None, "they would hold the request and its key"


def test_a_server_that_is_not_there_or_hangs_is_given_up(serve, point_to):
    point_to("http://127.0.0.1:9/v1")
    with pytest.raises(WriterError, match=r"127\.0\.0\.1:9/v1 cannot be reached after 2 attempts; start the server"):
        write(retries=1)
    serve(write_story, delay=3.0)
    with pytest.raises(WriterError, match="did not answer in time, 1 times"):
        write(retries=0, timeout=0.3)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (lambda body: completion('{"childhood": "You', "length"), "cut off after 1000 tokens"),
        (lambda body: completion(json.dumps({"childhood": "You"})), "health: Field required"),
        (lambda body: completion("I would rather not."), "Invalid JSON"),
        (lambda body: completion(None, refusal="I would rather not."), "refused: I would rather not"),
        (lambda body: completion(""), "refused: no text came"),
        (lambda body: completion([{"type": "text", "text": "You"}]), "no text came"),
        *((body, "no chat completion") for body in ('{"choices": []}', '{"choices": [{"message": null}]}', "[]", "{}")),
        *((body, "no chat completion") for body in ('{"choices": [{"message": "You"}]}', '{"choices": [{"i', "<html>")),
    ],
)
def test_an_answer_of_another_form_is_no_draft(serve, entry, problem):
    server = serve(entry)
    with pytest.raises(Unusable, match=problem) as error:
        write()
    assert error.value.written and len(server.requests) == 1, "what came is kept"


@pytest.mark.parametrize(
    ("key", "address", "problem"),
    [
        ("", "http://127.0.0.1/v1", "set OPENAI_API_KEY in the environment"),
        ("k", "http://user:pa55@127.0.0.1/v1", "holds a user or a password"),
        *(
            ("k", each, "_URL is no address")
            for each in ("127.0.0.1:80", "http://127.0.0.1:notaport/v1", "http://[::1")
        ),
        *((key, "http://127.0.0.1/v1", "_KEY holds a space") for key in ("one two", "one\ntwo", "schlüssel")),
    ],
)
def test_an_environment_that_will_not_do_is_named(point_to, key, address, problem):
    point_to(address, key)
    with pytest.raises(WriterError, match=problem) as error:
        connect()
    assert "pa55" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "place"), [("  ", "api.openai.com/v1"), ("http://127.0.0.1:9/v1", "127.0.0.1:9/v1")]
)
def test_a_writer_shows_its_place_openais_own_by_default_and_no_key(point_to, address, place):
    point_to(address)
    writer = EndpointWriter(connect(), "m")
    assert writer.identity == f"{place}, m, temperature 1"
    assert SECRET not in repr(writer) + str(writer)


@pytest.mark.parametrize("part", [SECRET, SECRET[:12], SECRET[-12:]])
def test_a_key_that_a_server_repeats_goes_nowhere(serve, part):
    serve(lambda body: completion(f"Your key is {part}."))
    with pytest.raises(Unusable) as error:
        write()
    assert "[key]" in error.value.written and part not in error.value.written + str(error.value)


# --- the command -----------------------------------------------------------------------------------------------------


def command(*extra, task=("generated", "people.json", "--out", "stories.json")):
    endpoint = ("--writer", "endpoint", "--model", "m")
    return [sys.executable, "-m", "personalib", "backgrounds", *task, *endpoint, *extra]


def run(folder, *extra, **task):
    return subprocess.run(command(*extra, **task), cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path):
    save_backgrounds((publish(one) for one in PEOPLE), tmp_path / "people.json")
    return tmp_path


def test_the_command_writes_with_several_requests_at_a_time(serve, folder):
    server = serve(write_story, delay=0.3)
    done = run(folder, "--workers", "3")
    assert done.returncode == 0, done.stderr
    assert "life story: 100%" in done.stderr and "6 life stories" in done.stdout
    assert 1 < server.most_busy <= 3
    for entry, one in zip(load_backgrounds(folder / "stories.json"), PEOPLE, strict=True):
        assert entry.generative_bg == STORY.text(GrammarWriter().write(STORY, one, 0, []))
        assert entry.fixed_bg == publish(one).fixed_bg


def test_a_killed_command_goes_on_and_asks_for_nothing_again(serve, folder):
    server = serve(write_story, delay=0.5)
    journal = folder / "stories.json.journal.jsonl"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command("--workers", "1"), cwd=folder, **quiet)
    deadline = time.monotonic() + 60
    while (not journal.exists() or journal.read_text().count("\n") < 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = [json.loads(line)["idx"] for line in journal.read_text().splitlines()]
    assert 2 <= len(kept) < len(PEOPLE) and not (folder / "stories.json").exists()
    before = len(server.requests)
    assert run(folder).returncode == 0
    asked = Counter(by_request(body["messages"][-1]["content"]).idx for *_, body in server.requests[before:])
    assert asked == Counter({one.idx: 1 for one in PEOPLE if one.idx not in kept})
    assert len(load_backgrounds(folder / "stories.json")) == len(PEOPLE)


def test_keywords_come_from_the_endpoint_as_well(serve, folder):
    def phrases(body):
        keys = body["response_format"]["json_schema"]["schema"]["required"]
        number = len(server.requests)
        return completion(json.dumps({key: f"someone of the {number} kind in {key.replace('_', ' ')}" for key in keys}))

    server = serve(phrases)
    done = run(folder, "--workers", "1", task=("keywords", "--num", "3", "--out", "k.json"))
    assert done.returncode == 0, done.stderr
    drawn = [entry.background() for entry in load_backgrounds(folder / "k.json")]
    # the attributes are drawn as ever; the endpoint words them
    assert [one.elements for one in drawn] == [one.elements for one in draw_backgrounds(3, seed=0)]
    assert drawn[0].sentences()["gender"] == "You are someone of the 1 kind in gender."
    assert Keywords().request(drawn[0], []) == server.requests[0][2]["messages"][0]["content"]


def test_no_run_leaves_the_key_anywhere(serve, folder, monkeypatch):
    """Every way to fail, and one to succeed; then everything that was printed or written is searched for the key."""
    said = ""
    monkeypatch.setenv("OPENAI_LOG", "debug")
    echo = [lambda body: completion(f"Your key is {SECRET}.")]
    for plan in ([401], [400], ["<html>"], echo, [write_story]):
        serve(*plan)
        done = run(folder, "--attempts", "1")
        assert done.returncode == (0 if plan == [write_story] else 2), done.stderr
        said += done.stdout + done.stderr
    assert "error: " in said and "Traceback" not in said
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"stories.json", "stories.json.journal.jsonl", "people.json"} == {path.name for path in files}
    assert SECRET not in said + "".join(path.read_text() for path in files)
    assert SECRET[:12] not in said, "nor a part of it"


def test_a_notebook_that_uses_the_endpoint_keeps_no_key(serve, write_notebook, small_library, tmp_path):
    """Neither in its output, nor in its manifest, nor in what it leaves when it fails."""
    use = "import personalib.stimuli.endpoint as endpoint\nfrom personalib.stimuli import Background, LifeStory\n"
    use += "writer = endpoint.EndpointWriter(endpoint.connect(retries=0), 'm')"
    ask = "writer.write(LifeStory(), Background(0, {}), 0, [])"
    serve(401)
    run_notebook(write_notebook(use, "print(writer, writer.identity); writer", name="01_shows"), {}, tmp_path / "out")
    with pytest.raises(RunError, match="does not accept the key") as error:
        run_notebook(write_notebook(use, ask, name="02_fails"), {}, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"01_shows.ipynb", "01_shows.manifest.json", "02_fails.failed.ipynb"} <= {path.name for path in files}
    assert SECRET not in str(error.value) + "".join(path.read_text() for path in files)


# --- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_server(learned_folder, tmp_path_factory):
    """``transformers serve`` on a free port; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_port
    log = (tmp_path_factory.mktemp("served") / "log.txt").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1", "--port", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            break
        except OSError:
            time.sleep(0.3)
    else:
        log.seek(0)
        pytest.fail(f"transformers serve did not start:\n{log.read()}")
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(30)
    log.close()


def test_a_real_server_writes_the_stories(real_server, learned_folder, learned_people, folder, point_to):
    save_backgrounds((publish(one) for one in learned_people), folder / "people.json")
    point_to(real_server)
    arguments = ["--model", str(learned_folder), "--temperature", "0", "--workers", "1", "--attempts", "1"]
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    for entry, one in zip(load_backgrounds(folder / "stories.json"), learned_people, strict=True):
        assert entry.generative_bg == STORY.text(GrammarWriter().write(STORY, one, 0, []))


def test_a_real_server_says_what_it_does_not_have(real_server, learned_people, point_to):
    point_to(real_server)
    with pytest.raises(WriterError, match=r"127\.0\.0\.1:\d+/v1 (failed|has no model|refused)"):
        EndpointWriter(connect(retries=0), "nobody/nothing").write(STORY, learned_people[0], 0, [])
