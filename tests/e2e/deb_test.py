#!/usr/bin/env python3
"""The deb, as a new operator meets it: a root folder of this Debian is made (debootstrap), the package is installed there by
apt, the commands of launcher/package/README.md are run, the unit's ExecStart serves and says READY only when it does, an
upgrade keeps what was saved, and removal leaves nothing but state. Then the Containerfile's image is made there, by its own
lines, and serves.

    deb_test.py --build BUILD_DIR [--source DIR] [--whole] [--distribution NAME]

With --whole, or a DUO_TEST_SCALE above 1, the README's first commands are run, too: a clone of the tree is built and packed in the
root folder, as its commit is. A compiler cache that CCACHE_DIR names is used there. --distribution noble does all of this in an
Ubuntu 24.04, whatever this machine has.

Skipped, with the reason, without root, debootstrap, or a way to the distribution's archive. Standard library only.
"""

import atexit
import glob
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time

from checks import Checks, arguments, demo_model
from containerfile import Image
from service_manager import PATIENCE, Manager, Unit

# Of the README: what a chroot cannot do, and what is done already where this test runs.
NOT_RUN = {"systemctl": "no service manager in the root folder"}
BUILT = {"launcher/install_deps.sh": "the build is there already", "cmake": "the build is there already",
         "(cd": "the package is made by this test, outside of the root folder"}
ARCHIVES = {"debian": "http://deb.debian.org/debian", "ubuntu": "http://archive.ubuntu.com/ubuntu"}
UBUNTU = ("noble",)  # names of what is no Debian
CLONE = "/srv/duo"  # where the tree is in the root folder
SERVICE_USER = "61184"  # of the range that systemd takes for DynamicUser
NOTIFY = "/run/notify"


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def run(*command, **options):
    options = {"capture_output": True, "text": True, "check": True, "timeout": 3600, **options}
    try:
        return subprocess.run(command, **options)
    except subprocess.CalledProcessError as error:
        raise AssertionError(f"{command}: exit {error.returncode}\n{error.stdout[-2000:]}\n{error.stderr[-2000:]}") from None


def here():
    """The name of this machine's distribution."""
    with open("/etc/os-release", encoding="utf-8") as file:
        return re.search(r'^VERSION_CODENAME="?(\w+)', file.read(), re.M).group(1)


class Root:
    """A root folder of a distribution, and what is run in it: with its own /proc, /dev, and the machine's network."""

    def __init__(self, path, distribution):
        self.path = path
        archive, more = ARCHIVES["debian"], []
        if distribution in UBUNTU:
            archive = ARCHIVES["ubuntu"]
            more = ["gutsy"]  # the script by which debootstrap makes all of Ubuntu's, also those that it does not know
        checked = []
        if distribution != here() and not os.path.exists("/usr/share/keyrings/ubuntu-archive-keyring.gpg"):
            checked = ["--no-check-gpg"]  # Debian 12 has no package of these keys, and what is made is thrown away
        made = run("debootstrap", "--variant=minbase", "--include=ca-certificates", *checked, distribution, path, archive, *more, check=False)
        if made.returncode != 0:
            skip(f"debootstrap could not make a root folder: {made.stdout[-300:]}{made.stderr[-300:]}")
        copied = ["/etc/resolv.conf", *glob.glob("/etc/apt/apt.conf.d/*proxy*")]
        if distribution == here():
            copied += glob.glob("/etc/apt/sources.list*")
        else:
            with open(path + "/etc/apt/sources.list", "w", encoding="ascii") as file:
                file.writelines(f"deb {archive} {suite} main universe\n" for suite in (distribution, distribution + "-updates"))
        for name in copied:
            if os.path.isdir(name):
                shutil.copytree(name, path + name, dirs_exist_ok=True)
            elif os.path.exists(name):
                shutil.copy(name, path + name)
        with open(path + "/etc/apt/apt.conf.d/99test", "w", encoding="ascii") as file:
            file.write('APT::Install-Recommends "false";\nAPT::Sandbox::User "root";\n')
        with open(path + "/etc/hosts", "w", encoding="ascii") as file:
            file.write("127.0.0.1 localhost\n")
        with open(path + "/usr/sbin/policy-rc.d", "w", encoding="ascii") as file:
            file.write("#!/bin/sh\nexit 101\n")
        os.chmod(path + "/usr/sbin/policy-rc.d", 0o755)

    def command(self, *words):
        mounts = 'mount --bind /proc "$0/proc" && mount --bind /dev "$0/dev" && '
        cache = os.environ.get("CCACHE_DIR")
        if cache is not None and os.path.isdir(self.path + cache):
            mounts += f'mount --bind "{cache}" "$0{cache}" && '
        return ["unshare", "--mount", "sh", "-c", mounts + 'exec chroot "$0" "$@"', self.path, *words]

    def clone(self, source):
        """The tree as it is committed, and the machine's compiler cache, if there is one."""
        os.makedirs(os.path.dirname(self.path + CLONE), exist_ok=True)
        run("git", "clone", "-q", "--no-hardlinks", "file://" + os.path.abspath(source), self.path + CLONE)
        if "CCACHE_DIR" in os.environ:
            os.makedirs(self.path + os.environ["CCACHE_DIR"], exist_ok=True)
            self.run("apt-get", "install", "-y", "-q", "ccache")

    def run(self, *words, **options):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8",
               **{name: value for name, value in os.environ.items()
                  if name.lower().endswith("_proxy") or name.startswith(("CCACHE_", "CMAKE_"))}}
        return run(*self.command(*words), env=env, **options)

    def read(self, path):
        with open(self.path + path, encoding="utf-8") as file:
            return file.read()

    def install(self, deb):
        shutil.copy(deb, self.path + "/tmp/duo.deb")
        self.run("apt-get", "install", "-y", "-q", "/tmp/duo.deb")


def get(path, token):
    """Over TLS; None where nobody listens."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", 8000, context=context, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Authorization": "Bearer " + token})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return None
    finally:
        connection.close()


class Service:
    """The unit's ExecStart, as its user, heard by a service manager of ours."""

    def __init__(self, root, checks, token):
        command = Unit(root.read("/usr/lib/systemd/system/duo.service")).last("ExecStart").split()
        group = root.run("getent", "group", "duo-secrets").stdout.split(":")[2]
        root.run("install", "-d", "-o", SERVICE_USER, "-m", "0700", "/var/lib/duo")
        self.manager = Manager(root.path + NOTIFY)
        words = ["setpriv", "--reuid", SERVICE_USER, "--regid", SERVICE_USER, "--groups", group, "--inh-caps=-all", "--no-new-privs",
                 *command]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": NOTIFY, "STATE_DIRECTORY": "/var/lib/duo", "DUO_THREADS": "2"}
        self.process = subprocess.Popen(root.command(*words), env=env, stderr=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)  # what fails leaves no server behind
        before = get("/ready", token)
        checks.expect(before is None or before[0] == 503, f"ready before it says so: {before}")
        try:
            heard = self.manager.hears("READY=1", self.process)
        except TimeoutError as error:
            self.process.kill()
            raise AssertionError(f"{error}\n{self.process.stderr.read()}") from None
        checks.expect(any("STATUS=loading" in text for _, text in heard), f"what it says while it loads: {heard}")
        checks.expect(get("/ready", token)[0] == 200, "ready when it says so")

    def stop(self, checks):
        self.process.send_signal(signal.SIGTERM)
        self.manager.hears("STOPPING=1", self.process)
        checks.expect(self.process.wait(PATIENCE) == 0, f"its end: {self.process.stderr.read()[-1000:]}")


def readme_commands(source):
    with open(os.path.join(source, "launcher", "package", "README.md"), encoding="utf-8") as file:
        lines = re.search(r"```sh\n(.*?)```", file.read(), re.S).group(1).splitlines()
    return [line for line in lines if line.strip()]


def run_readme(root, checks, commands, whole):
    """The commands before systemctl; those that are not run are named. Returns the last, which asks the server."""
    checks.expect(len(commands) == 10, f"{len(commands)} commands")
    left_out = NOT_RUN if whole else {**NOT_RUN, **BUILT}
    for command in commands[:-1]:
        reason = next((reason for word, reason in left_out.items() if command.startswith(word)), None)
        if reason is not None:
            print(f"not run: {command} ({reason})")
        elif whole:
            begun = time.time()
            root.run("sh", "-c", f"cd {CLONE} && {command}", timeout=4 * 3600)
            print(f"{time.time() - begun:.0f} s: {command[:60]}", flush=True)
        elif command.startswith("apt-get install"):
            root.run("sh", "-c", command.replace("./build-cpu/duo_*.deb", "/tmp/duo.deb"))
        else:
            root.run("sh", "-c", command)
    return commands[-1]


def upgraded(deb, folder):
    """The same package of a later version."""
    tree, out = os.path.join(folder, "later"), os.path.join(folder, "later.deb")
    run("dpkg-deb", "-R", deb, tree)
    control = os.path.join(tree, "DEBIAN", "control")
    with open(control, encoding="utf-8") as file:
        text = file.read()
    version = re.search(r"^Version: (.*)$", text, re.M).group(1)
    with open(control, "w", encoding="utf-8") as file:
        file.write(text.replace(f"Version: {version}", f"Version: {version}.1"))
    run("dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "-b", tree, out)
    return out


def check_removal(root, checks):
    files = [name for name in root.run("dpkg", "-L", "duo").stdout.split() if os.path.isfile(root.path + name)]
    root.run("apt-get", "purge", "-y", "-q", "duo")
    left = [name for name in files if os.path.lexists(root.path + name)]
    checks.expect(not left, f"left after a purge: {left}")
    elsewhere = [word for place in ("/proc/*", "/tmp/*", CLONE + "*") for word in ("-not", "-path", place)]
    found = root.run("find", "/", "-xdev", "-name", "*duo*", *elsewhere).stdout.split()
    found = [name for name in found if not name.startswith(("/var/lib/duo", "/etc/duo/secrets", "/var/cache/apt"))]
    checks.expect(set(found) <= {"/etc/duo"}, f"left besides state and secrets: {found}")
    checks.expect(os.path.exists(root.path + "/var/lib/duo/sessions/book/manifest"), "what was saved stays")


def check_container(root, checks, source, deb):
    """The last stage of the Containerfile on the root folder, and what compose and Kubernetes do with a container of it."""
    shutil.rmtree(root.path + "/var/lib/duo")
    shutil.copytree(demo_model(source), root.path + "/model")
    image = Image(root, os.path.join(source, "launcher", "package", "container", "Containerfile"), [deb])
    checks.expect(image.user != "root", "it does not run as root")
    with image.start(stderr=subprocess.PIPE, env={"DUO_THREADS": "2"}) as server:
        atexit.register(server.kill)
        lines = []
        for line in server.stderr:
            lines.append(line)
            if json.loads(line)["event"] == "listening for HTTP":  # a line that is no JSON fails the test
                break
        checks.expect(http_status("127.0.0.1", 8000, "/ready") == 200, f"ready: {lines}")
        for words in (["client", "list", "--timeout", "60"], ["client", "create", "kept"], ["client", "append", "kept", "--text", "Some text."]):
            done = image.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            said = done.communicate(timeout=PATIENCE)
            checks.expect(done.returncode == 0, f"duo {words} in the container: {said}")
        server.send_signal(getattr(signal, image.stop_signal))
        checks.expect(server.wait(PATIENCE) == 0, f"its end: {server.stderr.read()[-1000:]}")
    checks.expect(os.path.exists(root.path + "/var/lib/duo/sessions/kept/manifest"), "what was kept is in the volume")


def http_status(host, port, path):
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def main():
    parser = arguments(__doc__, "--build")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--distribution", choices=sorted({here(), *UBUNTU}), default=here())
    args = parser.parse_args()
    whole = args.whole or args.distribution != here() or int(os.environ.get("DUO_TEST_SCALE", "1")) > 1
    if os.geteuid() != 0:
        skip("not root: no root folder can be made")
    for tool in ("debootstrap", "dpkg-shlibdeps", "unshare", "setpriv"):
        if shutil.which(tool) is None:
            skip(f"{tool} is not installed")
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        root = Root(os.path.join(folder, "root"), args.distribution)
        root.run("apt-get", "update", "-q")
        if whole:
            root.clone(args.source)
            last = run_readme(root, checks, readme_commands(args.source), whole)
            debs = glob.glob(root.path + CLONE + "/build-cpu/*.deb")
        else:
            run("cpack", "-G", "DEB", "-B", folder, cwd=args.build)
            debs = glob.glob(os.path.join(folder, "*.deb"))
            root.run("apt-get", "install", "-y", "-q", "curl", "openssl")
            shutil.copy(debs[0], root.path + "/tmp/duo.deb")
            last = run_readme(root, checks, readme_commands(args.source), whole)
        checks.expect(len(debs) == 1, f"packages: {debs}")
        for words in (["duo", "--version"], ["sh", "-c", "test -s /usr/share/man/man1/duo-serve.1*"],
                      ["bash", "-n", "/usr/share/bash-completion/completions/duo"]):
            root.run(*words)
        token = root.read("/etc/duo/secrets/tokens").split()[0]
        first = Service(root, checks, token)
        checks.expect("needle-6m" in root.run("sh", "-c", last).stdout, f"{last} names the model")
        client = ["duo", "client", "--server", "localhost:50051", "--tls-ca", "/etc/duo/secrets/server.pem", "--token-file",
                  "/etc/duo/secrets/tokens"]
        caller = json.loads(get("/duo/v1/state", token)[1])["caller"]
        checks.expect((caller["owner"], caller["role"]) == ("root", "admin"), f"whose token the README makes: {caller}")
        root.run(*client[:2], "create", "book", *client[2:], "--max-tokens", "2000")
        root.run(*client[:2], "append", "book", *client[2:], "--text", "The passcode for the rapid tower is 499748.\n")
        tokens = json.loads(get("/duo/v1/sessions/book", token)[1])["tokens"]
        first.stop(checks)
        root.install(upgraded(debs[0], folder))
        checks.expect(re.search(r"^tls-cert", root.read("/etc/duo/serve.toml"), re.M), "an upgrade keeps the settings that were changed")
        second = Service(root, checks, token)
        after = json.loads(get("/duo/v1/sessions/book", token)[1])
        checks.expect(after["tokens"] == tokens > 10, f"the session after an upgrade: {after}, {tokens} tokens before")
        second.stop(checks)
        check_removal(root, checks)
        check_container(root, checks, args.source, debs[0])
    return checks.exit_code()


if __name__ == "__main__":
    begun = time.time()
    code = main()
    print(f"{time.time() - begun:.0f} s")
    sys.exit(code)
