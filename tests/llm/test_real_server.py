"""A server that nobody here wrote: `transformers serve`, with the demo's subject behind it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labeler.bundled import SUBJECT_PATH
from labeler.errors import ConfigurationError, LLMError, UnreadableReply
from labeler.llm.client import OpenAILLM
from labeler.llm.patience import Patience
from labeler.llm.prompt import AnyPrompt, EchoPrompt, EmbeddingPrompt, Message, Prompt, Reply
from labeler.records import Usage
from tests.waiting import HANGS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="`transformers serve` needs the package accelerate"
)
PATIENCE = Patience(timeout=HANGS, n_retries=1, first_wait=0.01)
SECONDS = 90


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's subject that can chat: the messages are the text, and a line break ends a reply."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("served") / "subject"
    shutil.copytree(SUBJECT_PATH, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = [i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])]
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    for name, changes in (
        ("tokenizer_config.json", {"chat_template": template}),
        ("generation_config.json", {"eos_token_id": ends}),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture(scope="module")
def base_url(subject: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.log"
    words = [Path(sys.executable).parent / "transformers", "serve", subject, "--device", "cpu", "--port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (
        log.open("wb") as written,
        subprocess.Popen(
            [*map(str, words), "--host", "127.0.0.1"], stdout=written, stderr=subprocess.STDOUT, env=environment
        ) as server,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(SECONDS * 10):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"not up after {SECONDS} s: {log.read_text()}")


def greedy(subject: Path, text: str, max_tokens: int) -> tuple[str, int, int]:
    """What the subject goes on with, and the tokens of the text and of that."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(subject), AutoModelForCausalLM.from_pretrained(subject)
    tokens = tokenizer(text, return_tensors="pt").input_ids
    written = model.generate(tokens, max_new_tokens=max_tokens, do_sample=False)[0, tokens.shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True), tokens.shape[1], len(written)


def ask(base_url: str, prompt: AnyPrompt) -> tuple[Any, Usage]:
    async def run() -> tuple[Any, Usage]:
        async with OpenAILLM(base_url, patience=PATIENCE) as llm:
            (answer,) = await asyncio.gather(llm.ask(prompt), return_exceptions=True)
            return answer, llm.spent

    return asyncio.run(run())


@pytest.fixture
def prompt(subject: Path) -> Prompt:
    # All that our stages may send: this server takes some of it, and says nothing of the rest.
    words = (Message("system", "import os\n"), Message("user", "import"))
    return Prompt(str(subject), words, 30, 0.0, {"type": "object"}, purpose="explain", top_logprobs=3)


def test_a_reply_is_what_the_subject_says(base_url: str, subject: Path, prompt: Prompt) -> None:
    reply, spent = ask(base_url, prompt)
    text, n_in, n_out = greedy(subject, "import os\nimport", 30)
    assert isinstance(reply, Reply)
    assert reply.text == text
    assert reply.finish_reason == "stop"
    assert reply.choices is None, "this server knows no log-probabilities"
    assert spent == Usage(1, n_in, n_out, None)


def test_a_reply_that_is_cut_off_is_none(base_url: str, subject: Path, prompt: Prompt) -> None:
    text, _, _ = greedy(subject, "import os\nimport", 1)
    error, spent = ask(base_url, replace(prompt, max_tokens=1))
    assert isinstance(error, UnreadableReply)
    assert "a complete reply within 1 tokens" in str(error)
    assert error.reply == text
    assert error.usage == spent


def test_prompt_logprobs_that_a_server_does_not_have_are_missed_by_name(base_url: str, subject: Path) -> None:
    error, _ = ask(base_url, EchoPrompt(str(subject), "import os", 3))
    assert isinstance(error, ConfigurationError)
    assert f"{base_url} gives no log-probabilities of a prompt" in str(error)


def test_what_the_server_has_not_is_a_clear_error(base_url: str, prompt: Prompt) -> None:
    no_model, _ = ask(base_url, replace(prompt, model="another"))
    assert isinstance(no_model, LLMError)
    assert "another" in str(no_model)
    no_embeddings, _ = ask(base_url, EmbeddingPrompt("another", ("a",)))
    assert isinstance(no_embeddings, ConfigurationError)
    assert "404" in str(no_embeddings)
