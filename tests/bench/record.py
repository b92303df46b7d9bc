"""What a benchmark found: printed, and kept in a file where one is named."""

import json


def show(results, path=None):
    text = json.dumps(results, indent=1)
    print(text)
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
