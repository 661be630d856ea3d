"""The development fleet's application: a small gateway that samples its machine.

It runs from the verified image with nothing but the standard library. It says READY=1 once its first
sample is in, and goes on writing one JSON line a period to its output.
"""

import json
import os
import sys
import time

from release import VERSION

PERIOD = 5.0  # seconds


def sample():
    with open("/proc/loadavg", encoding="ascii") as file:
        load = float(file.read().split()[0])
    with open("/proc/uptime", encoding="ascii") as file:
        uptime = float(file.read().split()[0])
    return {"at": time.time(), "version": VERSION, "load": load, "uptime": uptime}


def notify(text):
    descriptor = os.environ.get("NOTIFY_FD", "")
    if descriptor.isdigit():
        os.write(int(descriptor), text.encode() + b"\n")


def main():
    print(json.dumps(sample()), flush=True)
    notify("READY=1")
    while True:
        time.sleep(PERIOD)
        print(json.dumps(sample()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
