"""Drives the page `verify.html` of evidence packages in headless Chromium, as a reader would.

Speaks the DevTools protocol over a pipe, so that nothing but Python and Chromium is needed.
CASES is a JSON list of {"name", "folder", "keys", "quorum", "verdict", "says", "gone"}, the last one a file
that is taken away between the choice and the check. Beside them the page's own tree code is held against
a definition of RFC 6962 that is written here.

    verifier.py PAGE CASES [FOLDER FOR SCREENSHOTS]
"""

import base64
import fcntl
import hashlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

PATIENCE_S = 120

# A click on the button, and what is there once it can be clicked again.
VERIFY = """new Promise((done) => {
  const button = document.getElementById('verify');
  button.click();
  const locked = ['keys', 'keyfiles', 'folder', 'verify'].every((id) => document.getElementById(id).disabled);
  const look = setInterval(() => {
    if (button.disabled) { return; }
    clearInterval(look);
    const text = (id) => { const it = document.getElementById(id); return it.hidden ? '' : it.innerText; };
    const result = !document.getElementById('result').hidden;
    const free = ['keys', 'keyfiles', 'folder'].every((id) => !document.getElementById(id).disabled);
    done({
      locked: locked && free,
      verdict: result ? document.getElementById('verdict').className : '',
      refusals: result ? text('refusals') : '',
      all: result ? document.getElementById('result').textContent : '',
      fault: text('fault'),
      strange: document.querySelectorAll('img, iframe, a').length,
    });
  }, 10);
})"""


class Browser:
    """One Chromium with one tab."""

    def __init__(self, profile):
        ours, theirs = os.pipe(), os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        reads = fcntl.fcntl(ours[0], fcntl.F_DUPFD, 10)
        writes = fcntl.fcntl(theirs[1], fcntl.F_DUPFD, 10)

        def pipes():
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        program = shutil.which("chromium")
        assert program, "there is no chromium"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        options += ["--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            [program, *options, "about:blank"], preexec_fn=pipes, pass_fds=(3, 4), stderr=subprocess.DEVNULL
        )
        for fd in (ours[0], theirs[1], reads, writes):
            os.close(fd)
        self.out, self.into = ours[1], theirs[0]
        self.waiting, self.last, self.events, self.session = b"", 0, [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "DOM", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def message(self, end):
        while b"\0" not in self.waiting:
            ready, _, _ = select.select([self.into], [], [], max(0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            part = os.read(self.into, 1 << 20)
            assert part, "Chromium has ended"
            self.waiting += part
        text, _, self.waiting = self.waiting.partition(b"\0")
        return json.loads(text)

    def ask(self, method, **params):
        self.last += 1
        asked = {"id": self.last, "method": method, "params": params}
        if self.session:
            asked["sessionId"] = self.session
        data = json.dumps(asked).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data) :]
        end = time.monotonic() + PATIENCE_S
        while True:
            message = self.message(end)
            if message.get("id") == self.last:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def event(self, method):
        end = time.monotonic() + PATIENCE_S
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message(end))

    def open(self, url):
        self.events = []
        self.ask("Page.navigate", url=url)
        self.event("Page.loadEventFired")

    def value(self, expression):
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def files(self, field, *paths):
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=field)["nodeId"]
        self.ask("DOM.setFileInputFiles", files=[str(path) for path in paths], nodeId=node)
        # A folder is looked through meanwhile.
        end = time.monotonic() + PATIENCE_S
        while not self.value(f"document.querySelector({json.dumps(field)}).files.length"):
            assert time.monotonic() < end, "the files are not there"

    def complaints(self):
        """What the page was refused, threw, or asked the network for."""
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown" or method == "Log.entryAdded":
                found.append(params)
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("file:"):
                found.append(params["request"]["url"])
        return found

    def shot(self, path):
        taken = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def end(self):
        self.process.kill()
        self.process.wait()


def sha256(data):
    return hashlib.sha256(data).digest()


def split(n):
    return 1 << (n - 1).bit_length() - 1


def root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    at = split(len(leaves))
    return sha256(b"\1" + root(leaves[:at]) + root(leaves[at:]))


def inclusion(index, leaves):
    if len(leaves) == 1:
        return []
    at = split(len(leaves))
    if index < at:
        return inclusion(index, leaves[:at]) + [root(leaves[at:])]
    return inclusion(index - at, leaves[at:]) + [root(leaves[:at])]


def consistency(first, leaves, whole=True):
    if first == len(leaves):
        return [] if whole else [root(leaves)]
    at = split(len(leaves))
    if first <= at:
        return consistency(first, leaves[:at], whole) + [root(leaves[at:])]
    return consistency(first - at, leaves[at:], False) + [root(leaves[:at])]


TREES = """(async (trees) => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const wrong = [];
  let told = 0;
  const empty = { size: 0, root: await sha256(new Uint8Array()) };
  for (const other of [empty, { size: 1, root: new Uint8Array(32) }]) {
    if (await inconsistency(empty, other, [])) { wrong.push([0, other.size]); }
    if (!(await inconsistency({ size: 0, root: new Uint8Array(32) }, other, []))) { wrong.push([0, other.size, 'forged root']); }
  }
  for (const { size, root, leaves, proofs, before } of trees) {
    const tree = new Tree(size, bytes(root));
    for (const [index, proof] of proofs.entries()) {
      const hashes = proof.map(bytes);
      told += 1;
      const objection = await tree.objection(index, bytes(leaves[index]), hashes);
      if (objection) { wrong.push([size, index, objection]); }
      for (const [i, hash] of hashes.entries()) {
        const forged = hashes.with(i, hash.with(i % 32, hash[i % 32] ^ 1));
        // By a tree that has seen this very way, and by one that has seen none.
        for (const judge of [tree, new Tree(size, bytes(root))]) {
          if (!(await judge.objection(index, bytes(leaves[index]), forged))) { wrong.push([size, index, 'forged', i]); }
        }
      }
      for (const other of [hashes.slice(1), [...hashes, bytes(root)]]) {
        if (other.length !== hashes.length && !(await tree.objection(index, bytes(leaves[index]), other))) { wrong.push([size, index, 'length']); }
      }
      if (!(await tree.objection(index, bytes(leaves[(index + 1) % size]), hashes)) && size > 1) { wrong.push([size, index, 'leaf']); }
    }
    for (const { first, was, proof } of before) {
      const [old, now, hashes] = [{ size: first, root: bytes(was) }, { size, root: bytes(root) }, proof.map(bytes)];
      told += 1;
      const objection = await inconsistency(old, now, hashes);
      if (objection) { wrong.push([first, size, objection]); }
      const forged = { size: first, root: old.root.with(0, old.root[0] ^ 1) };
      if (!(await inconsistency(forged, now, hashes))) { wrong.push([first, size, 'forged root']); }
      for (const [i, hash] of hashes.entries()) {
        if (!(await inconsistency(old, now, hashes.with(i, hash.with(0, hash[0] ^ 1))))) { wrong.push([first, size, 'forged', i]); }
      }
    }
  }
  return { wrong, told };
})"""


def trees():
    """Trees of some sizes with every proof in them."""
    text = lambda hash: base64.b64encode(hash).decode()
    all = []
    for size in [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16, 21, 33]:
        leaves = [sha256(b"\0" + bytes([n])) for n in range(size)]
        before = []
        for first in range(1, size + 1):
            proof = [text(hash) for hash in consistency(first, leaves)]
            before.append({"first": first, "was": text(root(leaves[:first])), "proof": proof})
        proofs = [[text(hash) for hash in inclusion(index, leaves)] for index in range(size)]
        tree = {"size": size, "root": text(root(leaves)), "leaves": [text(leaf) for leaf in leaves]}
        all.append({**tree, "proofs": proofs, "before": before})
    return all


def main():
    page, cases = sys.argv[1], json.loads(pathlib.Path(sys.argv[2]).read_text(encoding="utf-8"))
    shots = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            run(browser, pathlib.Path(page).resolve().as_uri(), cases, shots)
        finally:
            browser.end()


def run(browser, url, cases, shots):
    browser.open(url)
    found = browser.value(f"({TREES})({json.dumps(trees())})")
    assert found["wrong"] == [] and found["told"] > 200, found
    for case in cases:
        browser.open(url)
        browser.value(f"document.getElementById('keys').value = {json.dumps(chr(10).join(case['keys']))}; null")
        browser.value(f"document.getElementById('quorum').value = {json.dumps(case['quorum'])}; null")
        if case["folder"]:
            browser.files("#folder", case["folder"])
        if case["gone"]:
            pathlib.Path(case["folder"], case["gone"]).unlink()
        told = browser.value(VERIFY)
        assert told["locked"], (case, "what was given can be changed")
        if shots:
            browser.shot(shots / f"{case['name'].replace(' ', '-')}.png")
        assert told["verdict"] == case["verdict"], (case, told)
        where = {"refused": told["refusals"], "": told["fault"]}.get(case["verdict"], told["all"])
        for words in case["says"]:
            assert words in where, (case, words, told)
        assert told["strange"] == 0 and browser.complaints() == [], (case, browser.complaints())
        print(f"{case['verdict'] or 'told'}: {case['name']}")
    # A page that fails while it shows what it found leaves nothing of that, nor of what was
    # there before.
    left = "['title', 'words', 'facts', 'checks', 'unchecked'].map((id) => document.getElementById(id).textContent).join('')"
    browser.open(url)
    browser.files("#folder", cases[0]["folder"])
    assert browser.value(VERIFY)["verdict"] == "unvouched" and browser.value(left)
    browser.value("checkRow = () => { throw new Error('of a test'); }; null")
    told = browser.value(VERIFY)
    assert told["verdict"] == "" and "could not be finished" in told["fault"], told
    assert browser.value(left) == "", browser.value(left)
    # A browser that cannot says so, and verifies nothing.
    browser.open(url)
    browser.value("crypto.subtle.importKey = async () => { throw new DOMException('', 'NotSupportedError'); }; null")
    browser.files("#folder", cases[0]["folder"])
    told = browser.value(VERIFY)
    assert told["verdict"] == "unable" and "Nothing was checked" in told["all"], told


if __name__ == "__main__":
    main()
