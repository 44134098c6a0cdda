"""Exams when things go wrong: an endpoint that falls silent, a tokenizer without padding, names that nobody has."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from memspan.cli.main import main
from memspan.cli.probing import subject_of
from memspan.core.errors import ModelError
from memspan.models import load_language_model
from memspan.models.endpoint import EndpointLanguageModel
from memspan.probes.episodic import Episodic
from memspan.probes.run import run
from memspan.probes.subjects import ModelSubject
from tests.word_model import make_word_model

N = 8


class Server(ThreadingHTTPServer):
    """Answers chats with "not mentioned", up to a number of them; then it takes requests and says nothing."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, patience):
        super().__init__(("127.0.0.1", 0), Handler)
        self.patience, self.answered = patience, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/completions") and "chat" not in self.path:
            self.send_error(404)
            return
        if len(self.server.answered) >= self.server.patience:
            time.sleep(3)
            return
        self.server.answered.append(body["messages"][-1]["content"])
        said = json.dumps({"choices": [{"message": {"content": "not mentioned"}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


def test_an_endpoint_that_falls_silent_loses_nothing(tmp_path):
    server = Server(patience=5)
    try:
        model = EndpointLanguageModel(server.url, "m", timeout=0.5, retries=0)
        exam, subject = Episodic(), ModelSubject(model, "remote")
        assert subject.forms == ("text",)
        with pytest.raises(ModelError, match="no answer within"):
            run(exam, subject, n=N, lengths=(500,), out=tmp_path)
        (kept,) = tmp_path.glob("*.jsonl")
        assert len(kept.read_text().splitlines()) == 1 + 5
        server.patience = 1_000
        report = run(exam, subject, n=N, lengths=(500,), out=tmp_path)
        assert report.n == N
        assert len(server.answered) == N  # no item was asked twice
        assert len(set(server.answered)) == N
        whole = run(exam, subject, n=N, lengths=(500,))
        assert [item.said for item in whole.items] == [item.said for item in report.items]
        assert whole.score == report.score
    finally:
        model.endpoint.close()
        server.shutdown()
        server.server_close()


def test_how_long_an_endpoint_is_waited_for_is_said_on_the_command_line(capsys):
    server = Server(patience=1_000)
    spec = f"openai:{server.url}#m"
    try:
        subject = subject_of(f"undated:{spec}", Episodic(), timeout=0.25)
        assert subject._inner.model.endpoint.timeout == 0.25
        subject._inner.model.endpoint.close()
        assert main(["probe", "episodic", "--subject", spec, "--timeout", "0"]) == 2
    finally:
        server.shutdown()
        server.server_close()
    assert "must be above 0 seconds" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["likelihood", "text"])
def test_a_tokenizer_without_a_pad_token(tmp_path, form):
    model = load_language_model(make_word_model(tmp_path, window=4_096), dtype="float32")
    model.tokenizer.pad_token = None
    report = run(Episodic(), ModelSubject(model), n=4, lengths=(300,), form=form)
    assert report.n == 4
    assert report.bytes > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--subject", "nobody"], "nobody"),
        (["--subject", "openai:nowhere"], "openai:"),
        (["--subject", "undated:nobody"], "nobody"),
        (["--subject", "memory:"], "nobody behind the colon"),
        (["--subject", "oracle", "--length", "100"], "at least 300 tokens"),
        (["--subject", "oracle", "--length", "0"], "at least 300 tokens"),
        (["--subject", "oracle", "--n", "0"], "at least one item"),
        (["--subject", "oracle", "--option", "tasks=gossip"], "is no task"),
    ],
)
def test_unusable_words_are_said(words, message, capsys):
    assert main(["probe", "episodic", *words]) in (2, 6)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
