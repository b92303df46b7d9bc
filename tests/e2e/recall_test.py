#!/usr/bin/env python3
"""`duo bench recall`: questions inside a document and behind it, read and written sparsely, and what it refuses."""

import json
import os
import subprocess
import sys
import tempfile

from checks import Checks, arguments, demo_model

FACTS = 4


def main():
    args = arguments(__doc__, "--duo").parse_args()
    sys.path[:0] = [os.path.join(args.source, "launcher", "demo"), os.path.join(args.source, "tests", "bench")]
    import needle_document
    import recall_tasks
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        # Half of the demo model's facts are asked inside the document, with their answers; one of these is wrong.
        built = needle_document.build(needle_document.read_text(["/usr/share/common-licenses"]), 15000, FACTS, 0)
        text, inside = built["document"], []
        for number, question in enumerate(built["questions"][:2]):
            answer = question["answer"] if number == 0 else "000000"
            text += question["ask"]
            inside.append({"at": len(text.encode()), "answer": answer})
            text += answer + ".\n"
        document, questions = os.path.join(folder, "document.txt"), os.path.join(folder, "questions.json")
        with open(document, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        with open(questions, "w", encoding="utf-8") as file:
            json.dump({"document": document, "inside": inside, "questions": built["questions"][2:]}, file)

        def run(*more, code=0):
            done = subprocess.run([args.duo, "bench", "recall", "--model", demo_model(args.source), "--device", "cpu", "--questions", questions,
                                   *more], capture_output=True, text=True, timeout=280, check=False)
            checks.expect(done.returncode == code, f"{more}: exit {done.returncode}: {done.stderr[-300:]}")
            return done

        rows = json.loads(run("--prefill-sparsity", "0.5,auto:0.9", "--decode-sparsity", "0.9", "--json").stdout)["rows"]
        checks.expect([row["setting"] for row in rows] == ["dense", "prefill 0.5", "prefill auto:0.9", "decode 0.9"], "dense comes first")
        dense = rows[0]
        checks.expect(dense["inside"]["fact"]["which"] == "10", f"the right answer is predicted, the wrong one is not: {dense['inside']}")
        checks.expect(dense["asked"]["fact"]["which"] == "11", f"facts are found: {dense['asked']}")
        checks.expect("reading" not in dense and "writing" not in dense, "dense has no audits")
        for row in rows[1:3]:
            checks.expect(row["reading"][0]["audits"] >= 1 and row["reading"][0]["mass"] >= 0.3, f"sparse reading is audited: {row}")
        read = rows[1]["reading"][0]
        checks.expect(read["density"] < 0.6 and read["mass"] < 1, f"by the density that was asked for: {read}")
        checks.expect(rows[3]["inside"] == {} and rows[3]["writing"]["listed_tokens"] > 0, f"answers visit lists: {rows[3]}")
        for row in rows:
            for found in [*row["inside"].values(), *row["asked"].values()]:
                checks.expect(found["lost"] - found["gained"] == round(found["net_loss"] * found["questions"]), f"losses add up: {found}")
        said = run("--asked", "1").stdout
        checks.expect("asked  fact   100.00 % of 1 " in said and "inside fact    50.00 % of 2 " in said, f"one question is asked: {said}")

        for flags in (["--prefill-sparsity", "off"], ["--decode-sparsity", "1"], ["--prefill-sparsity", "auto:2"], ["--asked", "-1"]):
            run(*flags, code=2)
        with open(questions, "w", encoding="utf-8") as file:
            json.dump({"document": document, "inside": [{**inside[0], "at": inside[0]["at"] + 1}]}, file)
        checks.expect(questions in run(code=1).stderr, "an answer that is not at its place is refused with the file's name")
        with open(questions, "w", encoding="utf-8") as file:
            json.dump({"document": document}, file)
        said = run(code=1).stderr
        checks.expect(questions in said and "no questions" in said and "recall_tasks.py" in said, f"a file that asks nothing is refused: {said}")

        # A long question has room; one that is too long for the model is refused with the numbers.
        def long_question(words):
            with open(questions, "w", encoding="utf-8") as file:
                json.dump({"document": document, "questions": [{"ask": "Who was it? " * words, "answer": "nobody"}]}, file)
        long_question(300)
        checks.expect("asked  fact" in run().stdout, "a question of more than 384 tokens is asked")
        long_question(400000)
        said = run(code=1).stderr
        checks.expect(questions in said and "longest question" in said and "1,048,576 positions" in said, f"longer than the model: {said}")

        # The tasks' documents: the same for the same seed, every word one token, and answers where they are said to be.
        names = recall_tasks.write(os.path.join(folder, "tasks"), 3000, 1, 7)
        with open(names[0], encoding="utf-8") as file:
            task = json.load(file)
        again = recall_tasks.build(3000, 7 * 1000003)
        with open(task["document"], encoding="utf-8") as file:
            text = file.read()
        checks.expect(again["document"] == text and again["questions"] == task["questions"], "the same seed gives the same document")
        for question in task["inside"]:
            checks.expect(text[question["at"]:].startswith((question["answer"] + "\n", question["answer"] + " leads")), f"not at its place: {question}")
        checks.expect({q["task"] for q in task["inside"]} == {q["task"] for q in task["questions"]} == set(recall_tasks.TASKS), "all tasks are there")
        model = os.path.join(folder, "model")
        os.makedirs(model)
        with open(os.path.join(demo_model(args.source), "config.json"), encoding="utf-8") as source, \
                open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
            file.write(source.read())
        with open(os.path.join(model, "tokenizer.json"), "w", encoding="utf-8") as file:
            json.dump(recall_tasks.tokenizer_json(), file)
        done = subprocess.run([args.duo, "tokenize", "--model", model, "--file", task["document"], "--ids"], capture_output=True, text=True, check=False)
        ids = recall_tasks.word_ids()
        wanted = [0] + [ids[word] for word in text.replace("\n", " \n ").split(" ") if word]
        checks.expect([int(i) for i in done.stdout.split()] == wanted, f"words are tokens: {done.stdout[:200]} {done.stderr[-300:]}")

        # The model that was trained on them answers them, with half of its heads streaming, too.
        model = os.path.join(args.source, "tests", "bench", "recall-6m")
        for attention in (["--attention", "full"], ["--pattern", os.path.join(model, "attn_pattern")]):
            done = subprocess.run([args.duo, "bench", "recall", "--model", model, "--device", "cpu", "--questions", *names, *attention, "--json"],
                                  capture_output=True, text=True, timeout=280, check=False)
            checks.expect(done.returncode == 0, f"{attention}: exit {done.returncode}: {done.stderr[-300:]}")
            row = json.loads(done.stdout)["rows"][0] if done.returncode == 0 else {"inside": {}, "asked": {}}
            for where in ("inside", "asked"):
                right = {task: found["right"] / found["questions"] for task, found in row[where].items()}
                checks.expect(right.get("note", 0) > 0.95 and len(right) == 4 and sum(right.values()) > 2, f"{attention}: {where}: {right}")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
