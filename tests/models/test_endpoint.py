"""Endpoints, against a server in this process: retries, refusals, and what must never be shown."""

import email.utils
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from memspan.core.errors import InputError, ModelError, UnsupportedModelError
from memspan.models import Embedder, LanguageModel, load_embedder, load_language_model
from memspan.models.endpoint import _retry_after

KEY = "sk-very-secret"


class Server:
    """Answers each POST with the next scripted `(status, headers, body)`, then with `default`."""

    def __init__(self):
        self.script, self.requests = [], []
        self.default = (200, {}, {"choices": [{"message": {"content": "Hello."}}]})
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                reply = outer.script.pop(0) if outer.script else outer.default
                if reply == "hang":
                    time.sleep(0.6)
                    return
                if reply == "drop":
                    return
                status, headers, content = reply(body) if callable(reply) else reply
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MEMSPAN_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "the-other")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, which are recorded and not slept."""
    waited = []
    monkeypatch.setattr("memspan.models.endpoint.time.sleep", waited.append)
    return waited


def language_model(server, **options):
    model = load_language_model(f"openai:{server.url}#tiny", **options)
    assert isinstance(model, LanguageModel)
    return model


def test_generate(server):
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    server.default = (200, {}, {"choices": [{"message": {"content": "Lisbon. END more"}}], "usage": usage})
    answer = language_model(server).generate("Where?", max_new_tokens=9, temperature=0.5, stop=[" END"])
    assert (answer.text, answer.prompt_tokens, answer.new_tokens) == ("Lisbon.", 12, 3)
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["messages"] == [{"role": "user", "content": "Where?"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["stop"]) == ("tiny", 9, 0.5, [" END"])


def test_no_key_no_header(server, monkeypatch):
    monkeypatch.delenv("MEMSPAN_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    language_model(server).generate([{"role": "user", "content": "Hi"}], max_new_tokens=1)
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retries_with_growing_waits(server, waits, status):
    server.script = [(status, {}, {"error": "busy"})] * 3
    assert language_model(server).generate("Hi", max_new_tokens=1).text == "Hello."
    assert len(server.requests) == 4
    for wait, ceiling in zip(waits, (0.5, 1.0, 2.0), strict=True):
        assert ceiling / 2 <= wait <= ceiling


def test_connection_cut_is_retried(server, waits):
    server.script = ["drop"]
    assert language_model(server).generate("Hi", max_new_tokens=1).text == "Hello."


def test_retry_after_is_obeyed(server, waits):
    date = email.utils.format_datetime(email.utils.localtime())
    server.script = [(429, {"Retry-After": "7"}, {}), (503, {"Retry-After": date}, {}), (503, {"Retry-After": "?"}, {})]
    language_model(server).generate("Hi", max_new_tokens=1)
    assert waits[:2] == [7.0, 0.0]
    assert 1.0 <= waits[2] <= 2.0


def test_retry_after_that_is_too_long_is_reported(server, waits):
    server.script = [(429, {"Retry-After": "3600"}, {})]
    with pytest.raises(ModelError, match="wait 3600 s"):
        language_model(server).generate("Hi", max_new_tokens=1)
    assert waits == []


def test_retry_after_forms():
    assert _retry_after(None) is None
    assert _retry_after("nan") is None
    assert _retry_after("-3") == 0.0
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_gives_up(server, waits):
    server.default = (500, {}, {"error": {"message": "out of order"}})
    with pytest.raises(ModelError, match=r"status 500 \(out of order\); given up after 3 attempts"):
        language_model(server, retries=2).generate("Hi", max_new_tokens=1)
    assert len(server.requests) == 3


def test_timeout(server):
    server.script = ["hang"]
    with pytest.raises(ModelError, match=r"no answer within 0\.1 s"):
        language_model(server, timeout=0.1, retries=0).generate("Hi", max_new_tokens=1)


def test_nobody_listens(waits):
    model = load_language_model("openai:http://127.0.0.1:9/v1#m", retries=1)
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9.*2 attempts"):
        model.generate("Hi", max_new_tokens=1)


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"", b"\xff\xfe"])
def test_no_json_object(server, body):
    server.default = (200, {}, body)
    with pytest.raises(ModelError, match="no JSON object"):
        language_model(server).generate("Hi", max_new_tokens=1)


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": 3}}]}, {"choices": 1}]
)
def test_unusable_answer(server, body):
    server.default = (200, {}, body)
    with pytest.raises(ModelError, match="content"):
        language_model(server).generate("Hi", max_new_tokens=1)


def test_refused_key_is_not_shown_nor_retried(server, waits, caplog):
    caplog.set_level("DEBUG")
    server.default = (401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    with pytest.raises(ModelError, match=r"401.*the key was refused.*MEMSPAN_API_KEY") as caught:
        language_model(server).generate("Hi", max_new_tokens=1)
    assert KEY not in str(caught.value) + caplog.text
    assert len(server.requests) == 1 and waits == []


def test_error_inside_a_success(server):
    server.default = (200, {}, {"error": {"message": "model not loaded"}})
    with pytest.raises(ModelError, match="model not loaded"):
        language_model(server).generate("Hi", max_new_tokens=1)


def test_wrong_path_hint(server):
    server.default = (404, {}, b"not found")
    with pytest.raises(ModelError, match="base_url"):
        language_model(server).generate("Hi", max_new_tokens=1)


def test_bad_arguments(server):
    model = language_model(server)
    for prompt in ([], [{"role": "user"}], ["Hi"]):
        with pytest.raises(InputError):
            model.generate(prompt, max_new_tokens=1)
    with pytest.raises(InputError):
        model.generate("Hi", max_new_tokens=0)
    with pytest.raises(InputError):
        language_model(server, timeout=0)
    assert server.requests == []


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def said(text, **more):
    return 200, {}, {"choices": [{"message": {"content": text}, **more}]}


def test_a_schema_is_sent_as_response_format(server):
    server.default = said('{"n": 3}')
    assert language_model(server).generate("How many?", max_new_tokens=9, schema=SCHEMA).text == '{"n": 3}'
    wanted = server.requests[0][2]["response_format"]
    assert wanted["type"] == "json_schema" and wanted["json_schema"]["strict"] is True
    assert wanted["json_schema"]["schema"] == SCHEMA
    language_model(server).generate("How many?", max_new_tokens=9)
    assert "response_format" not in server.requests[1][2]


@pytest.mark.parametrize("status", [400, 415, 422, 501])
def test_a_server_that_refuses_schemas_is_told_in_words(server, status):
    def older(body):
        if "response_format" in body:
            return status, {}, {"error": "unknown field response_format"}
        return said('Sure:\n```json\n{"n": 3}\n```')

    server.default = older
    model = language_model(server)
    assert model.generate("How many?", max_new_tokens=9, schema=SCHEMA).text == '{"n": 3}'
    told = server.requests[1][2]["messages"][-1]["content"]
    assert told.startswith("How many?") and json.dumps(SCHEMA) in told
    model.generate("How many?", max_new_tokens=9, schema=SCHEMA)
    assert len(server.requests) == 3  # it is not offered again


def test_a_refusal_of_something_else_is_reported_and_not_taken_for_one_of_schemas(server):
    server.default = (400, {}, {"error": "prompt too long"})
    model = language_model(server)
    with pytest.raises(ModelError, match="prompt too long"):
        model.generate("How many?", max_new_tokens=9, schema=SCHEMA)
    server.default = said('{"n": 3}')
    model.generate("How many?", max_new_tokens=9, schema=SCHEMA)
    assert "response_format" in server.requests[-1][2]


def test_an_answer_that_does_not_fit_is_asked_for_again(server):
    server.script = [said("three"), said('{"n": "three"}'), said('{"n": 3}')]
    assert language_model(server).generate("How many?", max_new_tokens=9, schema=SCHEMA).text == '{"n": 3}'
    first, second, third = (body["messages"] for _, _, body in server.requests)
    assert len(first) == 1 and len(second) == len(third) == 3
    assert "no JSON object" in second[-1]["content"] and "n must be integer" in third[-1]["content"]


def test_no_fitting_answer(server):
    server.default = said("three")
    with pytest.raises(ModelError, match="fits the schema in 3 tries"):
        language_model(server).generate("How many?", max_new_tokens=9, schema=SCHEMA)
    server.default = said('{"n": 1', finish_reason="length")
    with pytest.raises(ModelError, match="cut off after 9 tokens"):
        language_model(server).generate("How many?", max_new_tokens=9, schema=SCHEMA)
    count = len(server.requests)
    for options in ({"schema": {"format": "date"}}, {"schema": SCHEMA, "stop": ["x"]}):
        with pytest.raises(InputError):
            language_model(server).generate("How many?", max_new_tokens=9, **options)
    assert len(server.requests) == count


def test_loglik_sums_the_option(server):
    def echo(body):
        tokens = ["The", " sky", " is", *([" bl", "ue"] if body["prompt"].endswith("blue") else [" red"]), " ."]
        offsets = np.cumsum([0, *map(len, tokens[:-1])]).tolist()
        logs = [None, -1.0, -2.0, -0.25, -0.5, -9.0][: len(tokens)]
        return 200, {}, {"choices": [{"logprobs": {"tokens": tokens, "text_offset": offsets, "token_logprobs": logs}}]}

    server.default = echo
    assert language_model(server).loglik("The sky is", [" blue", " red"]) == [-0.75, -0.25]


@pytest.mark.parametrize(
    "reply",
    [
        (404, {}, {}),
        (400, {}, {}),
        (200, {}, {"choices": [{"text": "x"}]}),
        (200, {}, {"choices": [{"logprobs": None}]}),
    ],
)
def test_loglik_without_logprobs(server, reply):
    server.default = reply
    with pytest.raises(UnsupportedModelError, match="log-probabilities"):
        language_model(server).loglik("a", ["b"])


def test_embeddings(server):
    def embed(body):
        rows = [{"index": i, "embedding": [len(text), 1.0, 0.0]} for i, text in enumerate(body["input"])]
        return 200, {}, {"data": rows[::-1]}  # servers may answer in any order

    server.default = embed
    embedder = load_embedder(f"openai:{server.url}#e", batch_size=2)
    vectors = embedder.embed(["aaa", "", "aaaaa"])
    assert vectors.dtype == np.float32 and vectors.shape == (3, 3) and embedder.dim == 3
    np.testing.assert_allclose(vectors[:, 0] / vectors[:, 1], [3, 1, 5], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert [len(body["input"]) for _, _, body in server.requests] == [2, 1]
    assert embedder.embed([]).shape == (0, 3)
    assert isinstance(embedder, Embedder)


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0}],
        [{"index": 0, "embedding": [1.0, None]}],
        [{"index": 0, "embedding": []}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": "AAAA"}],
        [{"index": 0, "embedding": [1, float("nan")]}, {"index": 1, "embedding": [1, 2]}],
    ],
)
def test_unusable_embeddings(server, data):
    server.default = (200, {}, {"data": data})
    with pytest.raises(ModelError, match="embedding"):
        load_embedder(f"openai:{server.url}#e").embed(["a", "b"])
