"""On PYTHONPATH, counts the bytes that a process reads from records (os.pread), for test_distributed.py."""

import atexit
import os

plain, total = os.pread, [0]


def counted(*arguments):
    data = plain(*arguments)
    total[0] += len(data)
    return data


def tell():
    with open(os.path.join(os.environ["COUNT_READS"], str(os.getpid())), "w") as file:
        file.write(str(total[0]))


os.pread = counted
atexit.register(tell)
