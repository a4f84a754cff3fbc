"""An LLM that answers every request 50 ms later, from a process of its own, over real connections.

with late_llm() as base_url: ...

The model that it names, `stub at SECONDS`, says when the answer left by the monotonic clock of the machine.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LATENCY = 0.050


@contextmanager
def late_llm() -> Iterator[str]:
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


class _Connection(asyncio.Protocol):
    """Gives any label, and a simulation in which nothing fires."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._received = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            if len(self._received) < end + 4 + length:
                return
            body = bytes(self._received[end + 4 : end + 4 + length])
            del self._received[: end + 4 + length]
            asyncio.get_running_loop().call_later(LATENCY, self._send, body)

    def _send(self, body: bytes) -> None:
        if isinstance(self._transport, asyncio.WriteTransport) and not self._transport.is_closing():
            self._transport.write(_answer(body))


def _answer(body: bytes) -> bytes:
    contexts = re.findall(rb"Context (\d+)\\n", body)
    explains = b"<<" in body
    text = "LABEL: the word `self`" if explains else json.dumps({number.decode(): {} for number in contexts})
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": len(body) // 4, "completion_tokens": 20, "total_tokens": len(body) // 4 + 20}
    answer = json.dumps(
        {
            "id": "stub",
            "object": "chat.completion",
            "created": 0,
            "model": f"stub at {time.monotonic():.6f}",
            "choices": [message],
            "usage": usage,
        }
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
