"""Language models and embedders behind any OpenAI-compatible HTTP endpoint.

Used routes: `POST <base_url>/chat/completions`, `POST <base_url>/completions` (for `loglik`) and
`POST <base_url>/embeddings`. The key comes from MEMSPAN_API_KEY or OPENAI_API_KEY, is sent in the Authorization header
and stands in no message. MEMSPAN_API_KEY wins: a key for a server of one's own need not displace the other one.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from memspan.core.errors import InputError, ModelError, UnsupportedModelError
from memspan.core.footprint import Footprint
from memspan.models.base import (
    Generation,
    Prompt,
    Vectors,
    check_generation,
    checked_messages,
    checked_texts,
    cut_at_stop,
)
from memspan.models.progress import progress_bar
from memspan.models.schema import checked_schema, first_value, violation

if TYPE_CHECKING:
    import httpx

KEY_VARIABLES = ("MEMSPAN_API_KEY", "OPENAI_API_KEY")
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT = 60.0  # seconds; a server that asks for more is given up on at once, with its own figure
_EXCERPT = 300
_REFUSALS = (400, 415, 422, 501)  # of an option that a server does not know
_SCHEMA_TRIES = 3
_CHARS_PER_TOKEN = 4.0  # English under the usual byte-pair vocabularies


class Endpoint:
    """A connection that retries, and turns every failure into one clear `ModelError`.

    Args:
        base_url: up to and without the route, as `https://api.example.com/v1`.
        model: the model's name as the server knows it.
        timeout: seconds for connecting, and for each wait on the server's answer.
        retries: further attempts after the first, on connection errors, timeouts and the statuses 408, 409, 425, 429
            and 5xx. Waits double from 0.5 s, with jitter; a Retry-After header is obeyed instead.
    """

    def __init__(self, base_url: str, model: str, *, timeout: float = 60.0, retries: int = 4) -> None:
        if not timeout > 0 or retries < 0:
            raise InputError(f"timeout {timeout} must be above 0 seconds, and retries {retries} at least 0")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.timeout = timeout
        self.retries = retries
        self._client: httpx.Client | None = None

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that the server answers to `body`.

        Raises:
            ModelError: with the address, the status or the cause, the attempts made, and what to do.
        """
        import httpx

        url = f"{self.base_url}/{route}"
        key = _key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        problem = ""
        for attempt in range(self.retries + 1):
            asked: float | None = None
            try:
                response = self._open().post(url, json=body, headers=headers)
            except httpx.TimeoutException:
                problem = f"no answer within {self.timeout:g} s"
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            except (httpx.InvalidURL, httpx.HTTPError, UnicodeEncodeError) as error:
                raise ModelError(_hide(f"{url} cannot be asked: {type(error).__name__}: {error}", key)) from None
            else:
                if response.status_code < 300:
                    return _object(url, response, key)
                problem = f"status {response.status_code}{_said(response)}"
                if response.status_code not in _RETRIED:
                    raise ModelError(_hide(f"{url}: {problem}{_hint(response.status_code, key)}", key))
                asked = _retry_after(response.headers.get("retry-after"))
                if asked is not None and asked > _LONGEST_WAIT:
                    raise ModelError(_hide(f"{url}: {problem}; it asks to wait {asked:.0f} s: try again then", key))
            if attempt < self.retries:
                # Full jitter keeps clients that failed together from coming back together.
                time.sleep(asked if asked is not None else random.uniform(0.5, 1.0) * min(30.0, 0.5 * 2**attempt))
        raise ModelError(_hide(f"{url}: {problem}; given up after {self.retries + 1} attempts", key)) from None

    def _open(self) -> httpx.Client:
        import httpx

        if self._client is None:
            self._client = httpx.Client(timeout=self.timeout)
        return self._client

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None


class EndpointLanguageModel:
    """A language model behind an endpoint; see `Endpoint` for `timeout` and `retries`.

    Args:
        base_url, model: as in the spec `openai:<base_url>#<model>`.
        context_window: tokens the model can hold; the interface has no way to ask the server.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        context_window: int | None = None,
    ) -> None:
        self.endpoint = Endpoint(base_url, model, timeout=timeout, retries=retries)
        self.name = f"openai:{self.endpoint.base_url}#{model}"
        self.fingerprint = _fingerprint("lm", self.name)
        self.context_window = context_window
        self._takes_schema = True

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Generation:
        """One chat completion. Token counts are the server's, or estimates where it sends none.

        A schema is sent as `response_format`; to a server that refuses that, as a part of the last message. The answer
        is checked either way, and asked for again with what was wrong, up to two times.
        """
        check_generation(max_new_tokens, temperature, stop, schema)
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": checked_messages(prompt),
            "max_tokens": max_new_tokens,
            "temperature": temperature,
        }
        if stop:
            body["stop"] = list(stop)
        begun = time.perf_counter()
        if schema is None:
            answer = self.endpoint.post("chat/completions", body)
            text = cut_at_stop(self._content(answer), stop)
        else:
            answer, text = self._by_schema(body, checked_schema(schema))
        usage = answer.get("usage")
        counts = usage if isinstance(usage, dict) else {}
        read = counts.get("prompt_tokens") or sum(self.count_tokens(m["content"]) for m in body["messages"])
        return Generation(
            text=text,
            prompt_tokens=int(read),
            new_tokens=int(counts.get("completion_tokens") or self.count_tokens(text)),
            seconds=time.perf_counter() - begun,
        )

    def _content(self, answer: Mapping[str, Any]) -> str:
        try:
            text = answer["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise ModelError(f"{self.name} answered without choices[0].message.content") from None
        if not isinstance(text, str):
            raise ModelError(f"{self.name} answered with content that is no text")
        return text

    def _by_schema(self, body: dict[str, Any], schema: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The server's answer, and its text that fits the schema."""
        asked: list[dict[str, str]] = body["messages"]
        problem = ""
        for _ in range(_SCHEMA_TRIES):
            answer = self._post_schema(body, schema)
            text = self._content(answer)
            if answer["choices"][0].get("finish_reason") == "length":
                raise ModelError(f"{self.name} was cut off after {body['max_tokens']} tokens: raise max_new_tokens")
            try:
                value, written = first_value(text)
                problem = violation(value, schema)
            except ValueError as error:
                problem = str(error)
            if not problem:
                return answer, written
            # Only the last mistake is shown, so that small context windows are not filled with old ones.
            body["messages"] = [
                *asked,
                {"role": "assistant", "content": text[:2000] or "(nothing)"},
                {"role": "user", "content": f"That cannot be used: {problem}. Answer again with the JSON only."},
            ]
        raise ModelError(f"{self.name} gave no answer that fits the schema in {_SCHEMA_TRIES} tries: {problem}")

    def _post_schema(self, body: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
        if self._takes_schema:
            wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
            try:
                return self.endpoint.post("chat/completions", {**body, "response_format": wanted})
            except ModelError as error:
                if not any(f"status {status}" in str(error) for status in _REFUSALS):
                    raise
        *before, last = body["messages"]
        told = f"{last['content']}\n\nAnswer with JSON only, which fits this schema: {json.dumps(schema)}"
        answer = self.endpoint.post("chat/completions", {**body, "messages": [*before, {**last, "content": told}]})
        self._takes_schema = False  # only now: what was wrong before may have been something else
        return answer

    def loglik(self, prompt: str, options: Sequence[str]) -> list[float]:
        """Through `completions` with `echo` and `logprobs`, which vLLM and llama.cpp's server offer and few others.

        Raises:
            UnsupportedModelError: the server does not return the prompt's log-probabilities.
        """
        return [self._loglik(prompt, option) for option in checked_texts(options)]

    def _loglik(self, prompt: str, option: str) -> float:
        body = {
            "model": self.endpoint.model,
            "prompt": prompt + option,
            "max_tokens": 1,  # 0 is refused by some servers; the extra token lies behind the option and is not summed
            "temperature": 0,
            "echo": True,
            "logprobs": 1,
        }
        unsupported = UnsupportedModelError(
            f"{self.name} gives no log-probabilities of a prompt: use a local model, or a server with the route "
            "completions and its options echo and logprobs"
        )
        try:
            answer = self.endpoint.post("completions", body)
        except ModelError as error:
            if any(f"status {status}" in str(error) for status in (400, 404, 405, 422, 501)):
                raise unsupported from error
            raise
        try:
            found = answer["choices"][0]["logprobs"]
            rows = list(zip(found["text_offset"], found["tokens"], found["token_logprobs"], strict=True))
        except (KeyError, IndexError, TypeError, ValueError):
            raise unsupported from None
        begin, end = len(prompt), len(prompt) + len(option)
        logs = [log for offset, token, log in rows if offset + len(token) > begin and offset < end]
        if (option and not logs) or any(log is None or not math.isfinite(log) for log in logs):
            raise unsupported
        return float(sum(logs))

    def count_tokens(self, text: str) -> int:
        """An estimate, a quarter of the characters: the server's tokenizer is not known here."""
        return math.ceil(len(text) / _CHARS_PER_TOKEN)

    def footprint(self) -> Footprint:
        """Nothing: the weights are on another machine."""
        return Footprint()


class EndpointEmbedder:
    """An embedder behind an endpoint; see `Endpoint` for `timeout` and `retries`. The server cuts long texts.

    Args:
        base_url, model: as in the spec `openai:<base_url>#<model>`.
        batch_size: most texts in one request.
    """

    max_tokens: int | None = None

    def __init__(
        self, base_url: str, model: str, *, batch_size: int = 64, timeout: float = 60.0, retries: int = 4
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size} must be at least 1")
        self.endpoint = Endpoint(base_url, model, timeout=timeout, retries=retries)
        self.name = f"openai:{self.endpoint.base_url}#{model}"
        self.fingerprint = _fingerprint("embed", self.name)
        self.batch_size = batch_size
        self._dim: int | None = None

    @property
    def dim(self) -> int:
        """Length of a vector; the first use asks the server."""
        if self._dim is None:
            self._request(["dimension"])
        assert self._dim is not None
        return self._dim

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Vectors:
        """Embed texts into a float32 array `[len(texts), dim]` of unit rows, in the order given."""
        checked = checked_texts(texts)
        parts: list[Vectors] = []
        with progress_bar("embedding", len(checked), force=progress) as advance:
            for start in range(0, len(checked), self.batch_size):
                part = checked[start : start + self.batch_size]
                parts.append(self._request(part))
                advance(len(part))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), dtype=np.float32)

    def footprint(self) -> Footprint:
        """Nothing: the weights are on another machine."""
        return Footprint()

    def _request(self, texts: list[str]) -> Vectors:
        # Some servers refuse an empty text; a space is read the same.
        body = {"model": self.endpoint.model, "input": [text or " " for text in texts], "encoding_format": "float"}
        answer = self.endpoint.post("embeddings", body)
        try:
            rows = {int(item["index"]): item["embedding"] for item in answer["data"]}
            vectors = np.array([rows[i] for i in range(len(texts))], dtype=np.float32)
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"{self.name} answered without one embedding per text") from None
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ModelError(f"{self.name} answered with embeddings that are no vectors of finite numbers")
        if self._dim not in (None, vectors.shape[1]):
            raise ModelError(f"{self.name} answered {vectors.shape[1]} dimensions after {self._dim} before")
        self._dim = int(vectors.shape[1])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
        return unit


def _fingerprint(family: str, name: str) -> str:
    """Of the address and the model's name: the weights behind it cannot be seen."""
    return f"{family}-endpoint:{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _key() -> str:
    return next((value for name in KEY_VARIABLES if (value := os.environ.get(name, "").strip())), "")


def _hide(message: str, key: str) -> str:
    """A server may quote the key it was sent."""
    return message.replace(key, "[key]") if key else message


def _object(url: str, response: httpx.Response, key: str) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ModelError(_hide(f"{url} answered no JSON object: {response.text[:_EXCERPT]!r}; is base_url right?", key))
    if content.get("error") and not content.get("choices") and not content.get("data"):
        raise ModelError(_hide(f"{url}: {str(content['error'])[:_EXCERPT]}", key))
    return content


def _said(response: httpx.Response) -> str:
    """What the server said about its refusal, in short."""
    try:
        content = response.json()
        error = content.get("error", content)
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = response.text
    text = " ".join(str(text).split())[:_EXCERPT]
    return f" ({text})" if text else ""


def _hint(status: int, key: str) -> str:
    if status in (401, 403):
        held = "the key was refused" if key else "no key is set"
        return f"; {held}: put one into {' or '.join(KEY_VARIABLES)}"
    if status == 404:
        return "; check base_url (it usually ends in /v1) and the model's name"
    if 300 <= status < 400:
        return "; it redirects elsewhere: give the final address as base_url"
    return ""


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None without a readable one."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
