#!/usr/bin/env python3
"""Plants faults in the program, one at a time, and sees whether the tests find them.

    tests/mutations.py [--work DIR] [--build ARGUMENT]... [--list] [NAME...]       all of them, or those named

A fault is a replacement of text in one or several files; a test that should find it is a test program with its
arguments. The tree as it lies there (tracked files) is copied to DIR/tree, built once and the tests seen to pass; then
each fault is planted, its program built and run, and the fault taken out again. One that its test does not find in time,
whose text is not there just once, or which does not compile counts as failed: a test is missing, or this list has aged.

--work DIR        where it is built, kept from run to run (build-mutations)
--build ARGUMENT  handed to cmake

Exits with 1 if one failed. Nightly runs it: tests/nightly.sh mutations.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIMIT = 600  # seconds that a test program may take; a fault that makes it hang is found
KERNELS, EQUIVALENCE = "tests/kernels_test", "tests/equivalence/equivalence_test"
PARALLEL, RUNTIME = "tests/parallel_test", "tests/runtime_test"


def gtest(program, filter_):
    return [program, "--gtest_filter=" + filter_, "--gtest_brief=1", "--gtest_fail_fast"]


def ranks(count, program):
    return ["mpirun", "-n", str(count), "--oversubscribe", "--allow-run-as-root", program]


STORE_FAULTS = gtest(EQUIVALENCE, "StoreFaults*.*")
FORKS = gtest(EQUIVALENCE, "cpu/EngineSessions.*Fork*")
SHARED = gtest(EQUIVALENCE, "StoreFaults*.*:StoreRules*.*:SharedStore*.*")
REWINDS = gtest(EQUIVALENCE, "cpu/EngineSessions.*Rewind*")

# name: test, then (file, text, replacement)...
FAULTS = {
    # Masks.
    "recent-one-more": (gtest(KERNELS, "cpu/Attention.Streaming*"),
                        ("kernels/cpu/attend.cc", "std::max(first, p - mask.recent);", "std::max(first, p - mask.recent - 1);")),
    "window-one-more": (gtest(KERNELS, "cpu/Attention.Windows*"),
                        ("kernels/cpu/attend.cc", "p - mask.window + 1);", "p - mask.window);")),
    "window-drops-a-page": (gtest(KERNELS, "cpu/Attention.WindowsMay*"),
                            ("kernels/cpu/attend_ops.cc", "std::max<int64_t>(first_visible, 0) / kPageTokens),",
                             "(std::max<int64_t>(first_visible, 0) + 1) / kPageTokens),")),
    "future-seen": (gtest(KERNELS, "cpu/Attention.Prefill*"),
                    ("kernels/cpu/attend.cc", "int64_t end = p + 1;", "int64_t end = p + 2;")),
    "streaming-sees-all": (gtest("tests/golden/golden_test", "cpu/GoldenTest.DuoMasksAgree*/needle*"),
                           ("kernels/cpu/attend.cc", "if (mask.recent >= 0 && block", "if (mask.recent < 0 && block"),
                           ("kernels/cpu/attend_ops.cc", "first, position - kv.recent});", "first});")),
    # Pages.
    "fork-page-not-copied": (FORKS, ("runtime/scheduler/sequence.cc",
                                     "    plan->page_copies.push_back({0, parent.pages[full], child.pages.back()});\n", "")),
    "rewind-writes-shared-page": (REWINDS, ("runtime/scheduler/sequence.cc", "const bool copy = length % kPageTokens != 0 &&",
                                            "const bool copy = length < 0 &&")),
    "rewind-writes-shared-split-page": (ranks(2, "tests/mpi/sessions_test"),
                                        ("runtime/scheduler/sequence.cc", "const bool split_copy = length %",
                                         "const bool split_copy = length < 0 && length %")),
    "page-checksum-ignored": (gtest(EQUIVALENCE, "SessionStore*.*"),
                              ("runtime/kv/kv_io_read.cc", "if (Crc32c(into, page_bytes) == crcs[i]) continue;",
                               "if (!crcs.empty()) continue;")),
    # Rings.
    "rings-rebuilt-from-too-late": (gtest(EQUIVALENCE, "cpu/EngineSessions.AQuestionRightAfter*"), ("runtime/scheduler/scheduler.cc", "tokens - options_.refeed);",
                                              "tokens - options_.refeed / 2);")),
    "fork-rings-not-copied": (FORKS, ("runtime/scheduler/sequence.cc",
                                      "  plan->ring_copies.push_back({0, parent.ring, child.ring});\n", "")),
    "ring-forgets-one": (gtest(KERNELS, "cpu/Attention.Streaming*"),
                         ("kernels/cpu/kv_store.cc", "span.num_rows - (kv.slots() - kv.sink)",
                          "span.num_rows - (kv.slots() - kv.sink - 1)")),
    "draft-overwrites-what-is-seen": (gtest(EQUIVALENCE, "cpu/DraftsTest.*"), ("runtime/kv/kv_cache.cc", "ring.slack = sizes.ring_slack;",
                                                                               "ring.slack = 0;")),
    "wrong-draft-kept": (gtest(EQUIVALENCE, "cpu/DraftsTest.*"), ("runtime/scheduler/scheduler_drafts.cc", "if (!right || request.closing) break;",
                                                                 "if (request.closing) break;")),
    "unchecked-rows-visit-lists": (gtest("tests/runtime_test", "SchedulerDrafts.*"),
                                   ("runtime/scheduler/scheduler_lists.cc", "may && !options_.guesses;", "may;")),
    "stale-rings-after-rewind": (gtest(EQUIVALENCE, "SessionStore*.*:StoreRules*.*"),
                                 ("runtime/saved/session_commit.cc", "    m->rings_valid = false;\n", "")),
    # Offsets.
    "positions-restart-in-a-chunk": (gtest(EQUIVALENCE, "cpu/Chunking.*"),
                                     ("runtime/scheduler/scheduler_steps.cc", "static_cast<int32_t>(first + i));",
                                      "static_cast<int32_t>(first % 256 + i));")),
    "mask-of-another-shard": (ranks(3, "tests/mpi/sampler_test"),
                              ("runtime/model/sampler.cc", "plan.masks.data() + rule.mask + first,", "plan.masks.data() + rule.mask,")),
    "page-read-from-before": (gtest(EQUIVALENCE, "SessionStore*.*"),
                              ("runtime/kv/kv_io_read.cc", "+ (i - s.from) * there;", "+ i * 0;")),
    "append-piece-repeated": (gtest("tests/serve_test", "*ADurableAppendReads*"),
                              ("launcher/serve/sessions/appends.cc", "append->tokens.begin() + at;", "append->tokens.begin();")),
    # What was promised.
    "rewind-not-written": (gtest("tests/serve_test", "*ARewindOfADurable*"),
                           ("launcher/serve/sessions/sessions.cc", "*saved = s->RewindSaved(id, tokens, meta);",
                            "*saved = absl::OkStatus();")),
    "tokens-made-on-the-engines-thread": (gtest("tests/serve_test", "Tokenising.*"),
                                          ("launcher/serve/server.cc", "so.beside = [this](size_t bytes",
                                           "[[maybe_unused]] const auto beside = [this](size_t bytes")),
    "messages-without-a-bound": (gtest("tests/serve_test", "MessageGate.*"),
                                 ("launcher/serve/calls/message_gate.cc", "  if (reading_ >= limits_.at_once) return false;\n", "")),
    "split-ids-not-counted": (gtest(RUNTIME, "SchedulerSplitRoom.*"),
                              ("runtime/scheduler/scheduler_requests.cc", "for (int i = 0; i < 2; ++i) {\n    if (needed[i] == 0",
                               "for (int i = 0; i < 1; ++i) {\n    if (needed[i] == 0")),
    # What is no number.
    "drawn-from-no-number": (gtest(EQUIVALENCE, "cpu/BrokenWeights.*"),
                             ("runtime/model/sampler.cc", "token = std::isfinite(samples[i].lse) ? samples[i].id : kNoToken;",
                              "token = std::max(samples[i].id, 0);")),
    "another-ranks-nan-passed-over": (ranks(3, "tests/mpi/sampler_test"),
                                      ("runtime/model/sampler.cc", "sum += std::exp(static_cast<double>(part) - top);",
                                       "sum += std::isnan(part) ? 0 : std::exp(static_cast<double>(part) - top);")),
    "score-of-no-number": (gtest(EQUIVALENCE, "cpu/BrokenWeights.Scores*"),
                           ("runtime/scheduler/scheduler_results.cc", "std::find(begin, end, kNoToken); broken != end",
                            "end; broken != end")),
    "guess-of-no-number-read": (gtest(RUNTIME, "SchedulerDrafts.*"), ("runtime/scheduler/scheduler_guesses.cc", "if (token >= 0) {",
                                                                      "if (token >= -9) {")),
    # Waits for a peer, memory and threads of several ranks.
    "async-error-not-asked": (gtest(PARALLEL, "AsyncTrouble.*:Waits.*"),
                              ("parallel/wait_watch.h", "asked != Nccl::kSuccess ? asked : told;", "asked;")),
    "async-question-failed": (gtest(PARALLEL, "AsyncTrouble.*:Waits.*"),
                              ("parallel/wait_watch.h", "asked != Nccl::kSuccess ? asked : told;", "told;")),
    "work-in-progress-ends-the-job": (gtest(PARALLEL, "AsyncTrouble.*:Waits.*"),
                                      ("parallel/wait_watch.h", "code == Nccl::kSuccess || code == Nccl::kInProgress",
                                       "code == Nccl::kSuccess")),
    "trouble-not-told": (gtest(PARALLEL, "Waits.*"),
                         ("parallel/wait_watch.cc", "asked_.nccl(); !trouble.empty()", "asked_.nccl(); trouble.size() > 99")),
    "silent-peer-not-told": (gtest(PARALLEL, "Waits.*"), ("parallel/wait_watch.cc", "silent >= 0", "silent > 0")),
    "silence-without-a-limit": (gtest(PARALLEL, "PeerSilence.*"),
                                ("parallel/wait_watch.h", "if (begun_ == 0) begun_ = now;", "begun_ = now;")),
    "cards-not-shared": (gtest(PARALLEL, "MemorySharers.*"),
                         ("parallel/memory_sharers.cc", "std::count(cards.begin(), cards.end(), cards[rank])", "1")),
    "memory-not-divided": (gtest(PARALLEL, "MemorySharers.*"),
                           ("kernels/base/device.cc", "return AvailableHostMemory() / sharers_;", "return AvailableHostMemory();")),
    "thread-not-bound": (gtest("tests/base_test", "BoundPool.*"),
                         ("kernels/base/bound_pool.cc", "    all.arrive_and_wait();\n", "")),
    # Syncs.
    "file-not-synced": (STORE_FAULTS, ("runtime/saved/session_files.cc", "return file->Sync();", "return absl::OkStatus();")),
    "tokens-not-synced": (gtest(EQUIVALENCE, "StoreFaults*.ALaterSaveOfTheSameServer"), ("runtime/saved/session_files.cc",
                                         "    if (absl::Status s = file->Sync(); !s.ok()) return s;\n", "")),
    "pages-not-synced": (STORE_FAULTS, ("runtime/kv/kv_io.cc", "return files.SyncAll();", "return absl::OkStatus();")),
    "rename-not-synced": (STORE_FAULTS, ("runtime/saved/session_files.cc", "*committed = true;\n  return SyncDir(files, dir);",
                                         "*committed = true;\n  return absl::OkStatus();")),
    "names-not-synced": (STORE_FAULTS, ("runtime/saved/session_commit.cc", "if (new_names) {", "if (new_names && number < 0) {")),
    "marker-not-synced": (SHARED, ("runtime/saved/session_commit.cc",
                                   "    if (absl::Status s = SyncDir(*files_, dir); !s.ok()) return s;\n    if (absl::Status s = SyncDir(*files_, dir_)",
                                   "    if (absl::Status s = SyncDir(*files_, dir_)")),
    "session-not-synced": (SHARED, ("runtime/saved/session_commit.cc",
                                    "    if (absl::Status s = SyncDir(*files_, dir_); !s.ok()) return s;\n", "")),
    "commit-of-before-not-synced": (SHARED, ("runtime/saved/session_commit.cc",
                                             "  if (absl::Status s = SyncDir(*files_, DirOf(id)); !s.ok()) return s;\n", "")),
    "deletion-not-synced": (SHARED, ("runtime/saved/session_commit.cc",
                                     "it is gone\n  if (absl::Status s = SyncDir(*files_, dir); !s.ok()) return s;\n", "it is gone\n")),
    "removal-not-synced": (SHARED, ("runtime/saved/session_commit.cc", "!SyncDir(*files_, dir).ok()) return;", "false) return;")),
    "save-dir-not-synced": (SHARED, ("runtime/saved/session_files.cc", "SyncDir(files, above); !s.ok()", "absl::OkStatus(); !s.ok()")),
    "sign-of-life-not-synced": (SHARED, ("runtime/saved/server_lease.cc",
                                         "  if (absl::Status s = file_.Sync(); !s.ok()) return s;\n", "")),
}


class Tree:
    """A copy of the tree, and its build."""

    def __init__(self, work, arguments):
        self.tree = os.path.join(work, "tree")
        self.build = os.path.join(self.tree, "build")  # there, so that a compiler cache knows it
        os.makedirs(self.tree, exist_ok=True)
        self.arguments = arguments
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        self.files = [name for name in listed.decode().split("\0") if name and os.path.exists(os.path.join(ROOT, name))]

    def update(self):
        """Copies what differs, so that what is the same is not built again."""
        for name in self.files:
            self.restore(name)

    def restore(self, name):
        source, target = os.path.join(ROOT, name), os.path.join(self.tree, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(source, "rb") as file:
            wanted = file.read()
        if os.path.exists(target):
            with open(target, "rb") as file:
                if file.read() == wanted:
                    return
        shutil.copy(source, target)  # with the time of now: it is built again

    def configure(self):
        command = ["cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DDUO_CUDA=OFF",
                   "-DDUO_TESTS=ON", *self.arguments]
        return self.run(command) == ""

    def make(self, program):
        return self.run(["cmake", "--build", self.build, "--target", os.path.basename(program)])

    @staticmethod
    def run(command):
        """Nothing where it was done, else the end of what it said."""
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        return "" if done.returncode == 0 else done.stdout[-2000:]

    def passes(self, test):
        """None: not within the limit."""
        try:
            done = subprocess.run(test, cwd=self.build, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LIMIT,
                                  check=False)
            return done.returncode == 0
        except subprocess.TimeoutExpired:
            return None

    def plant(self, edits):
        """What is wrong with the edits; nothing where they are made."""
        for name, text, replacement in edits:
            path = os.path.join(self.tree, name)
            with open(path, encoding="utf-8") as file:
                source = file.read()
            if source.count(text) != 1:
                return f"{name} has its text {source.count(text)} times"
            with open(path, "w", encoding="utf-8") as file:
                file.write(source.replace(text, replacement))
        return ""


def program_of(test):
    return next(word for word in test if word.startswith("tests/"))


def judge(tree, test, edits):
    """What is wrong; nothing where the test finds the fault."""
    try:
        wrong = tree.plant(edits)
        if wrong:
            return wrong
        said = tree.make(program_of(test))
        if said:
            return "does not compile:\n" + said
        passed = tree.passes(test)
        return "not found by its test" if passed else f"its test takes longer than {LIMIT} s" if passed is None else ""
    finally:
        for name, _, _ in edits:
            tree.restore(name)


def main():
    parser = argparse.ArgumentParser(description="Plants faults and sees whether the tests find them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a fault")
    parser.add_argument("--work", default=os.path.join(ROOT, "build-mutations"), metavar="DIR")
    parser.add_argument("--build", action="append", default=[], metavar="ARGUMENT", help="for cmake")
    parser.add_argument("--list", action="store_true", help="only say which there are, and what should find them")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in FAULTS]
    if unknown:
        parser.error(f"there is no fault {unknown[0]}; --list shows them")
    chosen = {name: FAULTS[name] for name in args.names or FAULTS}
    if args.list:
        for name, (test, *edits) in chosen.items():
            print(f"{name:34}{edits[0][0]:42}{' '.join(test)}")
        return 0

    tree = Tree(os.path.abspath(args.work), args.build)
    tree.update()
    if not tree.configure():
        print("error: the tree cannot be configured", file=sys.stderr)
        return 1
    for program in sorted({program_of(test) for test, *_ in chosen.values()}):
        if tree.make(program):
            print(f"error: {program} cannot be built", file=sys.stderr)
            return 1
    for test in {tuple(test) for test, *_ in chosen.values()}:
        if not tree.passes(list(test)):
            print(f"error: fails without a fault: {' '.join(test)}", file=sys.stderr)
            return 1
    failed = 0
    for name, (test, *edits) in chosen.items():
        begun = time.monotonic()
        wrong = judge(tree, test, edits)
        failed += wrong != ""
        print(f"{name:34}{wrong or 'found by ' + ' '.join(test)}  ({time.monotonic() - begun:.0f} s)", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} faults found")
    if "DUO_TEST_JSON" in os.environ:  # what nightly.sh keeps
        with open(os.environ["DUO_TEST_JSON"], "w", encoding="utf-8") as file:
            json.dump({"passed": len(chosen) - failed, "failed": failed}, file)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
