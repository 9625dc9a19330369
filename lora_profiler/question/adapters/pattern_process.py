"""The process that `targets.py` matches in. It is run as a file, without site packages, so that it
starts in 20 ms.

It reads {"pattern", "keys", "whole", "seconds"} and writes {"matched": [places in keys]} or
{"problem": text}. The system ends it once it has used its seconds of processor time: the engine's
own loop looks at no clock and lets no signal handler run.
"""

import json
import re
import signal
import sys
from typing import Any


def answer(pattern: str, keys: list[str], whole: bool) -> dict[str, Any]:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError) as e:
        return {"problem": str(e)}
    except RecursionError:
        return {"problem": "it is nested too deeply"}
    match = compiled.fullmatch if whole else compiled.match
    return {"matched": [i for i, key in enumerate(keys) if match(key)]}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    seconds = asked.pop("seconds")
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)  # which is to end the process
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    json.dump(answer(**asked), sys.stdout)
