"""The operator's page: what its data say to whom, and the page itself in a headless Chromium."""

import json
import os
import socket
import tempfile
import threading

import harness
from browser import Browser, missing
from http_harness import Server, case, check, equal
from needle_document import build, read_text

ADMIN, ALICE, BOB, NUMBERS = ("admin-token-0123456789", "alice-token-0123456789", "bobs-token-0123456789", "numbers-token-0123456789")
CONTROL, RETURN, TAB = "\ue009", "\ue006", "\ue004"  # WebDriver's names
MARKUP = "<img src=x onerror=document.title='broken'>"


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def token_file(folder, *more):
    text = f"{ADMIN} root admin\n{ALICE} alice\n{BOB} bob\n{NUMBERS} numbers metrics\n" + "".join(more)
    path = harness.write_tokens(text, folder, "tokens")
    return path


def document(tokens):
    return build(read_text([os.path.join(harness.SOURCE, "LICENSE")]), int(3.1 * tokens), 8, 5)


def put(server, session, text, **headers):
    answer = server.request("PUT", f"/duo/v1/sessions/{session}/text?create=true&append=first", text.encode(), content_type="text/plain", **headers)
    check(answer.status == 200, f"{session} is read: {answer}")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@case
def state():
    """State and events: who sees whose sessions and refusals, that numbers are not changed by looking, and who may drain."""
    with tempfile.TemporaryDirectory() as folder, Server("--token-file", token_file(folder), "--max-session-tokens", "2000") as server:
        for name, token in (("hers", ALICE), ("his", BOB)):
            equal(server.post("/duo/v1/sessions", {"id": name}, **bearer(token)).status, 201, f"{name} is made")
        equal(server.post("/duo/v1/sessions/his/ask", {"text": "x"}, **bearer(ALICE)).status, 404, "his is not hers")
        seen = {token: server.get("/duo/v1/state", **bearer(token)).json() for token in (ADMIN, ALICE, BOB, NUMBERS)}
        names = {token: [session["id"] for session in state["sessions"]] for token, state in seen.items()}
        equal(names, {ADMIN: ["hers", "his"], ALICE: ["hers"], BOB: ["his"], NUMBERS: []}, "sessions")
        refusals = {token: [one["method"] for one in state["refused"]] for token, state in seen.items()}
        equal(refusals, {ADMIN: ["Ask"], ALICE: ["Ask"], BOB: [], NUMBERS: []}, "refusals")
        plan, heads = seen[NUMBERS]["plan"], seen[NUMBERS]["heads"]
        equal(sum(head["retrieval"] for row in heads for head in row), plan["retrieval_heads"], "heads in the map")
        equal([one["format"] for one in plan["weight_formats"]], ["bf16"], "the weights' formats")
        equal(seen[ADMIN]["totals"], server.get("/duo/v1/state", **bearer(ADMIN)).json()["totals"], "looking is not counted")
        equal(server.get("/duo/v1/state").status, 401, "without a token")
        with server.raw() as raw:
            raw.send_request("GET", "/duo/v1/events", **bearer(BOB))
            status, headers = raw.head()
            equal((status, headers["content-type"]), (200, "text/event-stream"), "events")
            first = json.loads(next(raw.chunks())[6:])
            equal([session["id"] for session in first["sessions"]], ["his"], "his events")
            check("heads" not in first, "heads do not change, and are not sent every second")
        pin = "/duo/v1/sessions/hers/pin"
        equal(server.post(pin, {"pinned": True}, **bearer(ALICE)).status, 403, "pinned by its owner, who is no admin")
        equal((server.post(pin, {}, **bearer(ADMIN)).status, server.post(pin, {"pinned": 1}, **bearer(ADMIN)).status), (400, 400), "not said")
        equal(server.post(pin, {"pinned": True}, **bearer(ADMIN)).json()["pinned"], True, "pinned by an admin")
        equal(server.get("/duo/v1/sessions/hers", **bearer(ALICE)).json()["pinned"], True, "as its owner sees it")
        equal(set(seen[NUMBERS]["cache"]["hit_tokens"]), {"open", "read", "moved_out", "saved"}, "sources of what was not read again")
        equal(server.post("/duo/v1/drain", {}, **bearer(ALICE)).status, 403, "a drain by a user")
        equal(server.post("/duo/v1/drain", {"grace_seconds": -1}, **bearer(ADMIN)).status, 400, "a drain of no time")
        done = server.post("/duo/v1/drain", {}, **bearer(ADMIN))
        equal((done.status, done.json()["dropped"]), (200, 2), "a drain by an admin")
        equal(server.process.wait(60), 0, "the server's end")


@case
def page_files():
    """The page's files: open to everybody, guarded by their headers, and all that they name is there."""
    with tempfile.TemporaryDirectory() as folder, Server("--token-file", token_file(folder)) as server:
        index = server.get("/")
        text, todo, seen = index.body.decode(), ["/page/main.js", "/page/style.css", "/page/icon.svg"], set()
        for path in todo:
            check(path in text or path in seen or path.endswith(".js"), f"{path} is named by the page")
        while todo:
            path = todo.pop()
            answer = server.get(path)
            equal(answer.status, 200, path)
            check(len(answer.body) <= 30000, f"{path} has {len(answer.body)} bytes")
            for name, value in (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")):
                equal(answer.headers[name], value, f"{path}: {name}")
            for word in ("default-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
                check(word in answer.headers["content-security-policy"], f"{path}: {word}")
            seen.add(path)
            source = answer.body.decode()
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage",
                         "sessionStorage", "document.cookie", "http://", "https://"):
                check(word not in source.replace("http://www.w3.org/2000/svg", ""), f"{path} has {word}")
            for line in source.splitlines():
                if line.startswith("import"):
                    name = "/page/" + line.split("'./")[1].split("'")[0]
                    if name not in seen:
                        todo.append(name)
        check("<script>" not in text and " style=" not in text and " onclick" not in text, "nothing is inline")
        equal(server.get("/page/none.js", **bearer(ADMIN)).status, 404, "a file that is not there")


def log_in(browser, token):
    browser.wait("a place for the token", lambda: browser.run("return document.querySelector('#token-dialog').open"))
    browser.type("#token", token)
    browser.click("#token-form button[type=submit]")


def widths(browser, session):
    """The parts of the session's bar, in percent."""
    return browser.run("return [...document.querySelectorAll(`[data-key=\"${arguments[0]}\"] .bar i`)].map((i) => i.style.width)", session)


def check_accessible(browser, what):
    """axe, where PyPI's axe-playwright-python is there to bring it."""
    try:
        import axe_playwright_python
    except ModuleNotFoundError:
        return print("    not looked at by axe: axe-playwright-python is not installed")
    with open(os.path.join(os.path.dirname(axe_playwright_python.__file__), "axe.min.js"), encoding="utf-8") as file:
        browser.run(file.read())
    browser.send("POST", "/timeouts", {"script": 60000})
    found = browser.send("POST", "/execute/async", {"args": [], "script": "axe.run().then((r) => arguments[0](r.violations))"})
    grave = [(one["id"], one["nodes"][0]["html"][:120]) for one in found if one["impact"] in ("serious", "critical")]
    equal(grave, [], f"what axe finds serious, {what}")


def look(browser, name):
    folder = os.environ.get("DUO_PAGE_SHOTS")
    if folder:
        browser.shot(os.path.join(folder, name + ".png"))


def try_questions(browser, made):
    question = made["questions"][0]
    browser.run("document.querySelector('#ask-session').value = 'book'")
    browser.type("#ask-text", question["ask"])
    browser.run("document.querySelector('#ask-tokens').max = ''; document.querySelector('#ask-tokens').value = 99999999")
    browser.click("#ask-go")
    browser.wait("a refusal in the answer's place", lambda: "max_new_tokens" in browser.text("#answer"))
    browser.run("document.querySelector('#ask-tokens').value = 64")
    browser.press((CONTROL, RETURN))
    browser.wait("an answer", lambda: browser.text("#answer-note"), timeout=60)
    check(question["answer"] in browser.text("#answer"), f"the answer: {browser.text('#answer')!r}")
    check_sources(browser, question["answer"])


def check_sources(browser, fact):
    """The answer's text is marked with the number of the sentence that holds the fact, which stands below with its line."""
    marks = browser.run("return [...document.querySelectorAll('#answer mark')].map((mark) => "
                        "[mark.firstChild.textContent, mark.querySelector('a').hash])")
    check(any(text.strip() and text.strip() in fact for text, _ in marks), f"{fact} is marked: {marks}")
    for target in {target for _, target in marks}:
        check("line " in browser.text(target), f"{target} is listed")
    target = next(target for text, target in marks if text.strip() and text.strip() in fact)
    check(fact in browser.text(target), f"{target}: {browser.text(target)!r}")
    browser.wait("the heads' shares of attention", lambda: browser.text("#heads-shares"))
    known = browser.run("return [...document.querySelectorAll('#heads .known')].map((head) => "
                        "[head.querySelector('title').textContent, Number(head.querySelector('.share').getAttribute('height'))])")
    check(known and all("of its attention on the text" in words and 0 < height <= 12 for words, height in known), known)


def try_pin(browser):
    """An admin's buttons; a session's words say that it is pinned, and the button that it is pressed."""
    pressed = "return document.querySelector('[data-key=\"book\"] button[aria-pressed]').getAttribute('aria-pressed')"
    for state in ("true", "false", "true"):
        browser.click('[data-key="book"] button[aria-pressed]')
        browser.wait(f"pressed is {state}", lambda: browser.run(pressed) == state)
        browser.wait("its words", lambda: ("pinned" in browser.text('[data-key="book"] .more')) == (state == "true"))


def try_drain(browser, server):
    """Two presses end the server; what came of them stands there still when the page has missed it."""
    put(server, "short", "Some text.", **bearer(ALICE))
    browser.wait("its session", lambda: widths(browser, "short"))
    browser.click("#drain")
    equal(browser.text("#drain"), "Save all and stop?", "what the second press does")
    browser.click("#drain")
    equal(server.process.wait(60), 0, "the server's end")
    browser.wait("the server is missed", lambda: "does not answer" in browser.text("#notice"))
    equal(browser.text("#said-text"), "Drained: one session is on disk. The server has ended.", "what came of it")
    browser.click("#said-close")
    check(browser.run("return document.querySelector('#said').hidden"), "it is closed")


@case
def page():
    """The page in Chromium: two sessions, one being read; an answer, refusals, markup, a restart, 360 px, both themes."""
    if missing():
        print(f"skipped: {' and '.join(missing())} not installed (Debian: chromium, chromium-driver)")
        raise ModuleNotFoundError(name="chromium")
    made = document(2000)
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        flags = ["--token-file", token_file(folder), "--save-dir", os.path.join(folder, "saved"), "--http", f"127.0.0.1:{port}",
                 "--max-session-tokens", "400000", "--admin", "--sources", "--chunk", "256"]
        with Browser() as browser:
            with Server(*flags) as server:
                put(server, "book", made["document"], **bearer(ALICE))
                reading = threading.Thread(target=lambda: try_put(server, "long", document(120000)["document"]), daemon=True)
                reading.start()
                browser.open(f"http://127.0.0.1:{port}/")
                log_in(browser, "a-token-that-nobody-gave")
                browser.wait("a word on the wrong token", lambda: not browser.run("return document.querySelector('#token-failed').hidden"))
                log_in(browser, f"{ADMIN} root admin")  # a whole line of the token file will do
                browser.wait("two sessions", lambda: len(widths(browser, "book")) == 1 and len(widths(browser, "long")) > 1)
                begun = widths(browser, "long")[0]
                browser.wait("the bar moves", lambda: widths(browser, "long")[0] != begun)
                browser.wait("rate and time left", lambda: "left" in browser.text('[data-key="long"]'))
                equal(server.get("/duo/v1/sessions/none", **bearer(ALICE)).status, 404, "a session that is not there")
                browser.wait("a refusal with its sentence", lambda: "there is no session none" in browser.text("#refused"))
                check_units(browser)
                check_markup(browser)
                try_questions(browser, made)
                try_pin(browser)
                where = browser.run("return location.href + JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie")
                check(ADMIN not in where, f"the token is in {where}")
                look(browser, "light")
                check_accessible(browser, "light")
                browser.theme(dark=True)
                look(browser, "dark")
                check_accessible(browser, "dark")
                for width in (360, 768):
                    browser.size(width, 2600)
                    check(browser.run("return document.documentElement.scrollWidth") <= width, f"it fits {width} px")
                    look(browser, f"width-{width}")
                check_keyboard(browser)
                server.kill()
            browser.wait("the server is missed", lambda: browser.text("#state") == "no answer")
            with Server(*flags) as server:
                browser.wait("it is found again", lambda: browser.text("#state") == "serving", timeout=60)
                browser.wait("a session that was saved or is gone", lambda: browser.text("#work") != "")
                try_drain(browser, server)
                equal(browser.errors(), [], "errors in the console")


def check_units(browser):
    """Rounding never shows a whole unit of the next one."""
    script = """const [seconds, sizes, done] = arguments;
        import('/page/dom.js').then((dom) => done([seconds.map(dom.duration), sizes.map(dom.bytes)]));"""
    seconds = {0: "0 s", 0.9996: "1.0 s", 9.96: "10 s", 59.7: "1 min 0 s", 119.7: "2 min 0 s", 3599.8: "1 h 0 min", 86399.9: "1 d 0 h"}
    sizes = {999: "999 B", 999600: "1.0 MB", 99960: "100 kB", 63300000: "63.3 MB"}
    equal(browser.send("POST", "/execute/async", {"script": script, "args": [list(seconds), list(sizes)]}),
          [list(seconds.values()), list(sizes.values())], "durations and sizes")


def check_markup(browser):
    """The page's own functions, given names and sentences that hold markup: it is shown, and makes no element."""
    script = """const [markup, done] = arguments;
        const modules = ['work', 'sessions', 'sources'].map((name) => import(`/page/${name}.js`));
        Promise.all(modules).then(([work, sessions, sources]) => {
          const session = {id: markup, owner: markup, tokens: 1, max_tokens: 2, kv_bytes: 1, residence: markup, held_by: markup,
                           unusable: markup, idle_seconds: 1, pending_calls: 0};
          const state = {caller: {everybody: true, role: 'admin'}, server: {admin: true}, sessions: [session], calls: [], engine: {running: 0, waiting: 0, calls: 0},
                         totals: {answered: 0, refused: 0},
                         refused: [{number: -1, method: markup, code: markup, message: markup, age_seconds: 1}]};
          state.calls = [{number: -1, method: markup, session: markup, owner: markup, age_seconds: 1}];
          work.showRefused(state);
          work.showCalls(state);
          sessions.showSessions(state);
          const looked = [{start: 0, end: 1, line: 1, score: 1, text: markup}];
          sources.markSources(document.querySelector('#answer'), [[markup, 1]], {provenance: looked, token_provenance: [looked]});
          document.querySelector('#answer').hidden = false;
          done([document.querySelectorAll('img').length, document.body.textContent.split(markup).length - 1]);
        });"""
    images, shown = browser.send("POST", "/execute/async", {"script": script, "args": [MARKUP]})
    equal(images, 0, "elements made by markup")
    check(shown >= 12, f"markup is shown as text {shown} times")


def try_put(server, session, text):
    try:
        put(server, session, text, **bearer(ALICE))
    except (OSError, AssertionError):
        pass  # the server is killed while it reads


def check_keyboard(browser):
    """Every button and field is reached by Tab, in the page's order, and shows that it is."""
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(14):
        browser.press(TAB)
        reached.append(browser.run("return document.activeElement.id || document.activeElement.textContent"))
    for wanted in ("To the sessions", "drain", "token-open", "Ask", "ask-session", "ask-text", "ask-tokens", "ask-sources", "ask-go"):
        check(wanted in reached, f"{wanted} is reached by Tab: {reached}")
    equal(browser.run("return getComputedStyle(document.activeElement).outlineStyle !== 'none' || document.activeElement === document.body"),
          True, "what has the focus shows it")
