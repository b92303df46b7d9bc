"""A headless Chromium as the tests drive it: chromedriver's WebDriver protocol by hand, the standard library alone.

Needs the programs chromium and chromedriver (Debian: chromium, chromium-driver); `missing()` names what is not there.
"""

import base64
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time

import harness
from cases import check

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # by which the protocol names one


def missing():
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


class Browser:
    """One tab. dark: what the page is told that its reader prefers."""

    def __init__(self, width=1200, height=1400, dark=False):
        self.profile = tempfile.TemporaryDirectory()
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.session, self.port = None, 0
        for line in self.driver.stdout:
            if "successfully on port" in line:
                self.port = int(line.split("on port")[1].strip(" .\n"))
                break
        check(self.port, "chromedriver has ended")
        args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                f"--window-size={width},{height}", "--no-first-run", f"--user-data-dir={self.profile.name}",
                "--disable-extensions", "--disable-component-update", "--disable-background-networking"]
        options = {"args": args, "binary": shutil.which("chromium")}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.size(width, height)
        self.theme(dark)

    def _send(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120 * harness.patience)
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        value = json.loads(connection.getresponse().read())["value"]
        connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{method} {path}: {value['error']}: {value['message'].splitlines()[0]}")
        return value

    def send(self, method, path, body=None):
        return self._send(method, f"/session/{self.session}{path}", body)

    def devtools(self, command, **params):
        return self.send("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def size(self, width, height):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def theme(self, dark):
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, url):
        self.send("POST", "/url", {"url": url})

    def run(self, script, *args):
        """The value of a function's body in the page."""
        return self.send("POST", "/execute/sync", {"script": script, "args": list(args)})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def find(self, selector):
        return self.send("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.send("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector, text):
        element = self.find(selector)
        self.send("POST", f"/element/{element}/clear", {})
        self.send("POST", f"/element/{element}/value", {"text": text})

    def press(self, *keys):
        """Keys to whatever has the focus, one after the other, the first held where there are two in a tuple."""
        actions = []
        for key in keys:
            held = key if isinstance(key, tuple) else (key,)
            actions += [{"type": "keyDown", "value": one} for one in held]
            actions += [{"type": "keyUp", "value": one} for one in reversed(held)]
        self.send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def wait(self, what, condition, timeout=30):
        deadline = time.time() + timeout * harness.patience
        while not (found := condition()):
            check(time.time() < deadline, f"{timeout} s without: {what}; the page: {self.text('main')[:600]!r}")
            time.sleep(0.1)
        return found

    def errors(self):
        """What the console has of errors, but for answers that are refusals and connections that break."""
        entries = self.send("POST", "/se/log", {"type": "browser"})
        return [entry for entry in entries if entry["level"] == "SEVERE" and entry["source"] != "network"]

    def shot(self, file):
        with open(file, "wb") as out:
            out.write(base64.b64decode(self.send("GET", "/screenshot")))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is not None and "DUO_PAGE_SHOTS" in os.environ:
            self.shot(os.path.join(os.environ["DUO_PAGE_SHOTS"], "failed.png"))
        self.send("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
        self.profile.cleanup()
