"""
What users of the published Python SDK do, told once and run with its sync and its async client.

    python stories.py sync|async [WORDS]

prints one JSON object a line for each story, or for those whose titles hold the words: its title, and the
error if it failed. A title names the calls that its story is about; COMPATIBILITY.md is made from the
titles. The addresses and the key come from the environment, as they do for users.
"""

import asyncio
import json
import os
import sys
import time
import traceback
import urllib.request

import e2b
from missed_output import Output, OutputError

from client import Client, raises, resolve_localhost, settle, wait_until

AGENT_PORT = "49983"
STORIES = []


def story(title):
    """Adds a function to the stories, which run in the order of this file and share one sandbox."""

    def add(function):
        STORIES.append((title, function))
        return function

    return add


@story("commands.run returns what a command printed and how it ended")
async def _(client, sandbox):
    line = 'echo "$GREETING $NAME $(pwd) $(whoami)"; echo err >&2'
    result = await settle(sandbox.commands.run(line, envs={"NAME": "you"}))
    assert result.stdout == "hello you /home/user user\n", result
    assert result.stderr == "err\n" and result.exit_code == 0, result
    as_root = await settle(sandbox.commands.run("pwd; whoami", user="root", cwd="/tmp"))
    assert as_root.stdout == "/tmp\nroot\n", as_root


@story("commands.run raises CommandExitException for another exit code than 0")
async def _(client, sandbox):
    error = await raises(
        e2b.CommandExitException, lambda: sandbox.commands.run("echo why >&2; exit 3")
    )
    assert error.exit_code == 3 and error.stderr == "why\n", error


@story("commands.run raises InvalidArgumentException for a folder that does not exist")
async def _(client, sandbox):
    await raises(
        e2b.InvalidArgumentException, lambda: sandbox.commands.run("true", cwd="/nowhere")
    )


@story("commands.run carries 20 MB of output whole within the client's default minute")
async def _(client, sandbox):
    result = await settle(sandbox.commands.run("head -c 20000000 /dev/zero | tr '\\0' x"))
    assert len(result.stdout) == 20_000_000 and set(result.stdout) == {"x"}


@story("commands.send_stdin and commands.close_stdin give input to a command that runs")
async def _(client, sandbox):
    handle = await settle(
        sandbox.commands.run(
            "echo first; read line; echo second $line; cat", background=True, stdin=True
        )
    )
    assert await client.first_output(handle) == "first\n"
    await settle(sandbox.commands.send_stdin(handle.pid, "line\nrest"))
    await settle(sandbox.commands.close_stdin(handle.pid))
    result = await settle(handle.wait())
    assert result.stdout == "first\nsecond line\nrest", result


@story("commands.list names what runs, commands.kill ends it")
async def _(client, sandbox):
    handle = await settle(sandbox.commands.run("sleep 1000", background=True))
    pids = [process.pid for process in await settle(sandbox.commands.list())]
    assert handle.pid in pids
    assert await settle(sandbox.commands.kill(handle.pid)) is True
    error = await raises(e2b.CommandExitException, handle.wait)
    assert error.exit_code != 0
    assert await settle(sandbox.commands.kill(handle.pid)) is False


@story("commands.connect shows the output of a command that somebody else started")
async def _(client, sandbox):
    started = await settle(
        sandbox.commands.run("read line; echo got $line", background=True, stdin=True)
    )
    await settle(started.disconnect())
    again = await settle(sandbox.commands.connect(started.pid))
    await settle(sandbox.commands.send_stdin(started.pid, "this\n"))
    assert (await settle(again.wait())).stdout == "got this\n"


@story("pty.create, pty.send_stdin, pty.resize and pty.kill drive a terminal")
async def _(client, sandbox):
    shown = bytearray()
    terminal = await client.terminal(sandbox, shown.extend)
    await settle(sandbox.pty.resize(terminal.pid, e2b.PtySize(rows=30, cols=100)))
    await settle(sandbox.pty.send_stdin(terminal.pid, b"stty size; exit 0\n"))
    result = await client.wait_for_terminal(terminal, shown.extend)
    assert b"30 100" in shown, bytes(shown)
    assert result.exit_code == 0
    other = await client.terminal(sandbox, shown.extend)
    assert await settle(sandbox.pty.kill(other.pid)) is True


@story("files.write and files.read carry text, bytes and streams")
async def _(client, sandbox):
    files = sandbox.files
    written = await settle(files.write("hello.txt", "Grüße"))
    assert written.path == "/home/user/hello.txt"
    assert await settle(files.read("hello.txt")) == "Grüße"
    data = bytes(index * index % 251 for index in range(300_000))
    await settle(files.write("bytes", data))
    assert bytes(await settle(files.read("bytes", format="bytes"))) == data
    assert await client.read_stream(files, "bytes") == data
    with open(__file__, "rb") as source:
        await settle(files.write("stream", source))
    with open(__file__, encoding="utf8") as source:
        assert await settle(files.read("stream")) == source.read()


@story("files.write_files writes several in folders of their own")
async def _(client, sandbox):
    entries = [
        {"path": "many/a/one.txt", "data": "1"},
        {"path": "/home/user/many/b/two.txt", "data": b"2"},
    ]
    written = await settle(sandbox.files.write_files(entries))
    paths = [entry.path for entry in written]
    assert paths == ["/home/user/many/a/one.txt", "/home/user/many/b/two.txt"], paths
    assert await settle(sandbox.files.read("many/b/two.txt")) == "2"


@story("files.write_files keeps a quote and a backslash of a name, each as itself")
async def _(client, sandbox):
    names = ['names/a"b', "names/a\\b", "names/a%22b", "names/plain"]
    for name in names:
        entry = {"path": name, "data": name}
        plain = {"path": "names/other", "data": "other"}
        try:
            await settle(sandbox.files.write_files([entry, plain]))
        except e2b.InvalidArgumentException:
            await settle(sandbox.files.write(name, name))
    listed = await settle(sandbox.files.list("names"))
    found = {entry.name: await settle(sandbox.files.read(entry.path)) for entry in listed}
    wanted = {name.removeprefix("names/"): name for name in names} | {"other": "other"}
    assert found == wanted, found


@story("files.list goes as deep as asked")
async def _(client, sandbox):
    shallow = await settle(sandbox.files.list("many"))
    assert [entry.name for entry in shallow] == ["a", "b"], shallow
    assert shallow[0].type == e2b.FileType.DIR
    deep = await settle(sandbox.files.list("many", depth=2))
    names = [entry.path.removeprefix("/home/user/many/") for entry in deep]
    assert names == ["a", "a/one.txt", "b", "b/two.txt"], names


@story("files.get_info tells size, rights, owner and link target")
async def _(client, sandbox):
    info = await settle(sandbox.files.get_info("many/a/one.txt"))
    assert info.type == e2b.FileType.FILE and info.size == 1, info
    assert info.mode == 0o644 and info.permissions == "-rw-r--r--", info
    assert info.owner == "user" and info.group == "user", info
    await settle(sandbox.commands.run("ln -s hello.txt link"))
    link = await settle(sandbox.files.get_info("link"))
    assert link.symlink_target == "/home/user/hello.txt", link


@story("files.make_dir, files.rename, files.exists and files.remove")
async def _(client, sandbox):
    files = sandbox.files
    assert await settle(files.make_dir("new/folder")) is True
    assert await settle(files.make_dir("new/folder")) is False
    moved = await settle(files.rename("many/a/one.txt", "new/moved.txt"))
    assert moved.path == "/home/user/new/moved.txt"
    assert await settle(files.exists("many/a/one.txt")) is False
    assert await settle(files.exists("new/moved.txt")) is True
    await settle(files.remove("new"))
    assert await settle(files.exists("new/moved.txt")) is False


@story("files.watch_dir tells what happens in a folder and below")
async def _(client, sandbox):
    handle, events = await client.watch(sandbox.files, "many", recursive=True)
    await settle(sandbox.files.write("many/b/three.txt", "3"))
    await settle(sandbox.files.remove("many/b/three.txt"))

    def are_told():
        seen = {(event.type, event.name) for event in events()}
        kinds = (e2b.FilesystemEventType.CREATE, e2b.FilesystemEventType.REMOVE)
        return all((kind, "b/three.txt") in seen for kind in kinds)

    await wait_until("both events are told", are_told)
    await settle(handle.stop())


@story("a missing file, a folder and a file each raise an exception of their own")
async def _(client, sandbox):
    files = sandbox.files
    missing = (
        lambda: files.read("nothing"),
        lambda: files.get_info("nothing"),
        lambda: files.list("nothing"),
        lambda: files.rename("nothing", "something"),
    )
    for call in missing:
        await raises(e2b.FileNotFoundException, call)
    wrong_kind = (
        lambda: files.read("many"),
        lambda: files.list("hello.txt"),
        lambda: files.write("many", "text"),
    )
    for call in wrong_kind:
        await raises(e2b.InvalidArgumentException, call)


@story("Sandbox.download_url and Sandbox.upload_url need no key")
async def _(client, sandbox):
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": AGENT_PORT}
    link = sandbox.download_url("hello.txt", use_signature_expiration=60)
    assert fetch(link, headers) == "Grüße".encode()
    boundary = "boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    body = f"{head}linked\r\n--{boundary}--\r\n".encode()
    headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
    fetch(sandbox.upload_url("linked.txt"), headers, body)
    assert await settle(sandbox.files.read("linked.txt")) == "linked"


@story("Sandbox.get_info, Sandbox.is_running and Sandbox.list tell of a sandbox")
async def _(client, sandbox):
    info = await settle(sandbox.get_info())
    assert info.sandbox_id == sandbox.sandbox_id and info.name == "base", info
    assert info.metadata == {"purpose": "story", "owner": "you & me = us"}, info
    assert info.state == e2b.SandboxState.RUNNING and info.cpu_count == 1, info
    assert await settle(sandbox.is_running()) is True
    query = e2b.SandboxQuery(metadata={"owner": "you & me = us"})
    found = await client.pages(client.Sandbox.list(query=query, limit=1))
    assert [one.sandbox_id for one in found] == [sandbox.sandbox_id], found


@story("Sandbox.get_metrics tells what is in use")
async def _(client, sandbox):
    metrics = await wait_until("a measurement is there", sandbox.get_metrics)
    assert metrics[-1].cpu_count == 1 and metrics[-1].mem_used > 0, metrics[-1]


@story("Sandbox.get_host leads to a server in the sandbox")
async def _(client, sandbox):
    server = await settle(
        sandbox.commands.run("python3 -m http.server 8000 --directory /etc", background=True)
    )
    host = sandbox.get_host(8000)
    assert host.startswith(f"8000-{sandbox.sandbox_id}."), host
    page = await wait_until("the server answers", lambda: try_fetch(f"http://{host}/"))
    assert b"passwd" in page, page
    await settle(server.kill())


@story("Sandbox.pause and Sandbox.connect keep memory, files and processes")
async def _(client, sandbox):
    counter = await settle(
        sandbox.commands.run(
            "n=0; while read line; do n=$((n + 1)); echo $n; done", background=True, stdin=True
        )
    )
    await settle(counter.send_stdin("\n"))
    assert await client.first_output(counter) == "1\n"
    await settle(counter.disconnect())
    assert await settle(sandbox.pause()) is True
    assert await settle(sandbox.pause()) is False
    assert (await settle(sandbox.get_info())).state == e2b.SandboxState.PAUSED
    assert await settle(sandbox.is_running()) is False
    await raises(e2b.SandboxException, lambda: sandbox.commands.run("true"))
    assert (await settle(sandbox.get_info())).state == e2b.SandboxState.PAUSED
    woken = await settle(client.Sandbox.connect(sandbox.sandbox_id))
    assert await settle(woken.files.read("hello.txt")) == "Grüße"
    again = await settle(woken.commands.connect(counter.pid))
    await settle(again.send_stdin("\n"))
    assert await client.first_output(again) == "2\n"
    await settle(again.kill())


@story("the output that a pause cut off is read to its end, with nothing missed")
async def _(client, sandbox):
    line = "n=0; until read -t 0.02 stop; do echo $((n += 1)); done; exit 7"
    handle = await settle(sandbox.commands.run(line, background=True, stdin=True, timeout=0))
    output = Output(sandbox, handle.pid)
    seen = bytearray()

    def read():
        for stdout, _ in output.read():
            seen.extend(stdout)

    reading = asyncio.create_task(asyncio.to_thread(read))
    await wait_until("it counts", lambda: b"\n" in seen)
    await settle(sandbox.pause())
    await raises(OutputError, lambda: reading)
    await settle(sandbox.connect())
    reading = asyncio.create_task(asyncio.to_thread(read))
    before = len(seen)
    await wait_until("it counts on", lambda: len(seen) > before)
    await settle(sandbox.commands.send_stdin(handle.pid, "stop\n"))
    await reading
    assert output.exit_code == 7
    numbers = [int(number) for number in seen.split()]
    assert numbers == list(range(1, len(numbers) + 1)), numbers


@story("a sandbox that pauses at its time under an open stream stays paused")
async def _(client, sandbox):
    lifecycle = {"on_timeout": "pause", "auto_resume": True}
    sleepy = await settle(client.Sandbox.create(timeout=600, lifecycle=lifecycle))
    handle = await settle(sleepy.commands.run("sleep 1000", background=True, timeout=0))
    await settle(sleepy.set_timeout(1))
    error = await raises(Exception, handle.wait)
    assert isinstance(error, e2b.SandboxException), repr(error)

    async def is_paused():
        return (await settle(sleepy.get_info())).state == e2b.SandboxState.PAUSED

    await wait_until("it sleeps", is_paused)
    assert await settle(sleepy.is_running()) is False
    assert await is_paused(), "a probe woke it"
    assert (await settle(sleepy.commands.run("echo awake"))).stdout == "awake\n"
    await settle(sleepy.kill())


@story("Sandbox.set_timeout ends a sandbox at its time, and an open stream says so")
async def _(client, sandbox):
    brief = await settle(client.Sandbox.create())
    handle = await settle(brief.commands.run("sleep 1000", background=True, timeout=0))
    await settle(brief.set_timeout(1))
    error = await raises(Exception, handle.wait)
    assert isinstance(error, e2b.SandboxException), repr(error)

    async def is_gone():
        try:
            await settle(brief.get_info())
        except e2b.SandboxNotFoundException:
            return True
        return False

    await wait_until("it is gone", is_gone)
    assert await settle(brief.is_running()) is False


@story("Sandbox.create makes one sandbox for one idempotency key")
async def _(client, sandbox):
    key = f"story-{os.getpid()}-{time.monotonic_ns()}"
    first = await settle(client.Sandbox.create(idempotency_key=key))
    second = await settle(client.Sandbox.create(idempotency_key=key))
    assert first.sandbox_id == second.sandbox_id
    await settle(first.kill())


@story("Sandbox.create_snapshot, Sandbox.list_snapshots and Sandbox.delete_snapshot")
async def _(client, sandbox):
    await settle(sandbox.files.write("instant", "then"))
    snapshot = await settle(sandbox.create_snapshot())
    await settle(sandbox.files.write("instant", "now"))
    copy = await settle(client.Sandbox.create(snapshot.snapshot_id))
    assert await settle(copy.files.read("instant")) == "then"
    listed = await client.pages(sandbox.list_snapshots())
    assert [one.snapshot_id for one in listed] == [snapshot.snapshot_id], listed
    await settle(copy.kill())
    assert await settle(client.Sandbox.delete_snapshot(snapshot.snapshot_id)) is True
    assert await settle(client.Sandbox.delete_snapshot(snapshot.snapshot_id)) is False


@story("Sandbox.fork gives sandboxes that differ from then on")
async def _(client, sandbox):
    await settle(sandbox.files.write("origin", "shared"))
    children = await settle(sandbox.fork(count=2))
    ids = [child.sandbox_id for child in children]
    assert len({*ids, sandbox.sandbox_id}) == 3, ids
    await settle(children[0].files.write("origin", "changed"))
    assert await settle(children[1].files.read("origin")) == "shared"
    assert await settle(sandbox.files.read("origin")) == "shared"
    for child in children:
        await settle(child.kill())


@story("Sandbox.update_network changes what a sandbox may reach")
async def _(client, sandbox):
    await settle(sandbox.update_network({"deny_out": ["0.0.0.0/0"]}))
    info = await settle(sandbox.get_info())
    assert info.network["deny_out"] == ["0.0.0.0/0"], info.network


@story("Sandbox.kill says whether there was a sandbox, and later calls raise")
async def _(client, sandbox):
    other = await settle(client.Sandbox.create())
    assert await settle(other.kill()) is True
    assert await settle(other.kill()) is False
    assert await settle(other.is_running()) is False
    for call in (other.get_info, other.pause, lambda: other.set_timeout(1)):
        await raises(e2b.SandboxNotFoundException, call)
    await raises(
        e2b.SandboxNotFoundException, lambda: client.Sandbox.connect(other.sandbox_id)
    )
    await raises(e2b.SandboxException, lambda: other.commands.run("true"))
    await raises(e2b.SandboxException, lambda: other.files.read("x"))


@story("an unknown key raises AuthenticationException")
async def _(client, sandbox):
    await raises(
        e2b.AuthenticationException,
        lambda: client.Sandbox.create(api_key="e2b_" + "0" * 40),
    )


def fetch(url, headers=None, body=None):
    """Returns the body of an answer of 2xx. The connection has half a minute."""
    request = urllib.request.Request(url, data=body, headers=headers or {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def try_fetch(url):
    """The same, or None while nobody answers."""
    try:
        return fetch(url)
    except OSError:
        return None


async def main(name, words=""):
    resolve_localhost()
    client = Client(name)
    metadata = {"purpose": "story", "owner": "you & me = us"}
    sandbox = await settle(
        client.Sandbox.create(
            "base", timeout=600, metadata=metadata, envs={"GREETING": "hello"}
        )
    )
    try:
        for title, function in STORIES:
            if words not in title:
                continue
            error = None
            try:
                await function(client, sandbox)
            except Exception:
                error = traceback.format_exc()
            print(json.dumps({"title": title, "error": error}), flush=True)
    finally:
        await settle(sandbox.kill())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
