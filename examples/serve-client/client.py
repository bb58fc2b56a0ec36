"""Draws with a server of `kakusan serve`, prints each step, and saves the picture. Needs Python's standard library only.

python client.py MODEL [FILE.png] [http://127.0.0.1:7860]
"""

import json
import os
import sys
import urllib.error
import urllib.request


def send(address, body=None):
    """Sends a request, with the server's token if it has one; the reason of a refusal ends the program."""
    request = urllib.request.Request(address, json.dumps(body).encode() if body else None)
    if body:
        request.add_header("Content-Type", "application/json")
    if token := os.environ.get("KAKUSAN_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        return urllib.request.urlopen(request)
    except urllib.error.HTTPError as refused:
        sys.exit(json.load(refused)["error"])


def main(model, file="four.png", server="http://127.0.0.1:7860"):
    body = {"model": model, "batch_size": 4, "seed": 7, "num_inference_steps": 20}
    draw = f"{server}/api/draws/{json.load(send(f'{server}/api/draws', body))['id']}"
    for line in send(f"{draw}/events"):
        if not line.startswith(b"data: "):
            continue
        state = json.loads(line[len(b"data: ") :])
        match state["state"]:
            case "waiting":
                print(state["position"], "before this one")
            case "drawing":
                print("step", state["step"], "of", state["steps"])
            case "done":
                print("the same by:", state["command"])
            case _:
                sys.exit(state["error"])
    with open(file, "wb") as out:
        out.write(send(f"{draw}/sheet.png").read())
    print(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
