"""
One face for the two clients of the Python SDK, so that one story runs with both.

The synchronous client returns values and the asynchronous one returns awaitables: `settle` takes either.
Where the two differ in more than that, a function here hides the difference.
"""

import asyncio
import inspect
import socket
import time

import e2b

WAIT_SECONDS = 60.0


async def settle(value):
    """Returns the value of a call of either client."""
    return await value if inspect.isawaitable(value) else value


async def wait_until(what, probe):
    """Polls until `probe` returns something true, and returns that. Fails after a minute."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = await settle(probe())
        if found:
            return found
        assert time.monotonic() < deadline, f"gave up waiting until {what}"
        await asyncio.sleep(0.1)


async def raises(kind, call):
    """Returns the exception of class `kind` that the call must raise."""
    try:
        value = await settle(call())
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {value!r}")


def resolve_localhost():
    """
    Makes every name below `localhost` lead to the loopback (RFC 6761, 6.3). Browsers and curl do so by
    themselves, and the C library that Python asks does not.
    """
    lookup = socket.getaddrinfo

    def getaddrinfo(host, *rest, **named):
        is_local = isinstance(host, str) and host.endswith(".localhost")
        return lookup("127.0.0.1" if is_local else host, *rest, **named)

    socket.getaddrinfo = getaddrinfo


class Client:
    """The SDK's sandbox class, sync or async, with what the stories need beside it."""

    def __init__(self, name):
        self.is_async = name == "async"
        self.Sandbox = e2b.AsyncSandbox if self.is_async else e2b.Sandbox

    async def first_output(self, handle):
        """Returns the first piece of standard output of a command that runs in the background."""
        if not self.is_async:
            return next(iter(handle))[0]
        return await wait_until("there is output", lambda: handle.stdout)

    async def watch(self, files, path, **options):
        """Starts to watch a folder. Returns the handle and a function that returns all events so far."""
        seen = []
        if self.is_async:
            handle = await files.watch_dir(path, on_event=seen.append, **options)
            return handle, lambda: seen
        handle = files.watch_dir(path, **options)

        def events():
            seen.extend(handle.get_new_events())
            return seen

        return handle, events

    async def read_stream(self, files, path):
        """Reads a file piece by piece."""
        stream = await settle(files.read(path, format="stream"))
        if self.is_async:
            return b"".join([piece async for piece in stream])
        return b"".join(stream)

    async def pages(self, paginator):
        """Returns the items of every page."""
        items = []
        while paginator.has_next:
            items.extend(await settle(paginator.next_items()))
        return items

    async def terminal(self, sandbox, take):
        """Opens a terminal whose output goes to `take`. Returns its handle."""
        size = e2b.PtySize(rows=24, cols=80)
        if self.is_async:
            return await sandbox.pty.create(size=size, on_data=take)
        return sandbox.pty.create(size=size)

    async def wait_for_terminal(self, handle, take):
        """Returns how a terminal ended."""
        if self.is_async:
            return await handle.wait()
        return handle.wait(on_pty=take)
