"""A host app for the tests: an HTTP server that is well or sick as it is told, and remembers every request.

It tells its port in a first line on stdout. Then each line on stdin is an order in JSON, answered by one line in JSON on
stdout; the answer to an order that waits comes when what it waits for has happened. It ends with its stdin.

Orders:
  {"mode": NAME, ...}       how requests are answered from now on:
      well                  204
      faulty                500 for a share `errors` of all requests, no answer for a share `hangs`, else 204
      obeying               what the message's payload says in `answer`: a status, "hang" or "close"; `after` seconds
      refusing              nobody listens, and no connection is left open
      hanging               requests are read and not answered
      answering             `status`, after `after` seconds
  {"wait": COUNT}           until so many different messages were answered 2xx
  {"watch": true}           forget how many requests were open at once
  {"report": true}          everything: `requests` is a list of [id, attempt, answer, seconds], where the answer
                            is a status, 0 for a request that hung and -1 for a connection that was closed on it

Seconds are counted from the last order that set a mode.
"""

import asyncio
import json
import random
import sys
import time

HUNG, CLOSED = 0, -1


class App:
    def __init__(self):
        self.mode = {"mode": "well"}
        self.mode_since = time.monotonic()
        self.random = random.Random(20)
        self.requests = []
        self.answered = set()
        self.open = 0
        self.most_open = 0
        self.connections = set()
        self.awaited = None
        self.server = None
        self.port = 0

    async def listen(self):
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=1024)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop_listening(self):
        self.server.close()
        self.server = None
        for connection in list(self.connections):
            connection.transport.abort()
        while self.connections:
            await asyncio.sleep(0)

    def choose(self, message):
        """The status to answer with, HUNG or CLOSED."""
        name = self.mode["mode"]
        if name == "faulty":
            drawn = self.random.random()
            if drawn < self.mode["hangs"]:
                return HUNG
            return 500 if drawn < self.mode["hangs"] + self.mode["errors"] else 204
        if name == "obeying":
            wish = (message["payload"] or {}).get("answer", 204)
            return {"hang": HUNG, "close": CLOSED}.get(wish, wish)
        if name == "hanging":
            return HUNG
        return self.mode["status"] if name == "answering" else 204

    def remember(self, message, status):
        seconds = time.monotonic() - self.mode_since
        self.requests.append([message["id"], message["attempt"], status, round(seconds, 4)])
        if 200 <= status < 300:
            self.answered.add(message["id"])
            if self.awaited is not None and len(self.answered) >= self.awaited:
                self.awaited = None
                tell({"answered": len(self.answered)})

    async def obey(self, order):
        # Whoever gives another order does not wait any more.
        self.awaited = None
        if "mode" in order:
            if self.server is None:
                await self.listen()
            self.mode, self.mode_since = order, time.monotonic()
            if order["mode"] == "refusing":
                await self.stop_listening()
            tell({})
        elif "wait" in order:
            if len(self.answered) >= order["wait"]:
                tell({"answered": len(self.answered)})
            else:
                self.awaited = order["wait"]
        elif "watch" in order:
            self.most_open = self.open
            tell({})
        elif "report" in order:
            now = round(time.monotonic() - self.mode_since, 4)
            tell({"requests": self.requests, "open": self.open, "most_open": self.most_open, "now": now})


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; a request is answered before the next one is read."""

    def __init__(self, app):
        self.app = app
        self.buffer = bytearray()
        self.is_busy = False

    def connection_made(self, transport):
        self.transport = transport
        self.app.connections.add(self)
        if self.app.server is None:
            # It was on its way when the app stopped listening.
            transport.abort()

    def connection_lost(self, _error):
        self.app.connections.discard(self)
        self.end()

    def data_received(self, data):
        self.buffer += data
        while not self.is_busy and self.take_request():
            pass

    def take_request(self):
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        length = 0
        for line in bytes(self.buffer[:head_end]).lower().split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name == b"content-length":
                length = int(value)
        end = head_end + 4 + length
        if len(self.buffer) < end:
            return False
        body = bytes(self.buffer[head_end + 4 : end])
        del self.buffer[:end]
        self.begin(json.loads(body))
        return True

    def begin(self, message):
        self.is_busy = True
        self.app.open += 1
        self.app.most_open = max(self.app.most_open, self.app.open)
        status = self.app.choose(message)
        if status == HUNG:
            # The request stays open until the client gives up.
            self.app.remember(message, status)
        elif status == CLOSED:
            self.app.remember(message, status)
            self.transport.abort()
        elif self.app.mode.get("after"):
            asyncio.get_running_loop().call_later(self.app.mode["after"], self.answer, message, status)
        else:
            self.answer(message, status)

    def answer(self, message, status):
        if self.transport.is_closing():
            return
        self.app.remember(message, status)
        self.transport.write(b"HTTP/1.1 %d Status\r\ncontent-length: 0\r\n\r\n" % status)
        self.end()

    def end(self):
        if self.is_busy:
            self.is_busy = False
            self.app.open -= 1


def tell(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def main():
    app = App()
    await app.listen()
    orders = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    tell({"port": app.port})
    while line := await orders.readline():
        await app.obey(json.loads(line))


asyncio.run(main())
