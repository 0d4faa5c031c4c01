import sys, random, time, signal, traceback, shutil, os, collections

sys.path.insert(0, "/tmp/w/wt/c/tests/cli")
import test_cli_fuzz as F
from conftest import *


class Late(BaseException):
    pass


def test_explore(capsys, monkeypatch, workshop, tmp_path):
    monkeypatch.chdir(workshop)
    F.cli.main("vector model task.json --clean 3 --corrupted 2 --heads 2 --out vector.safetensors".split())
    before = F.contents(workshop)

    def late(*a):
        raise Late

    signal.signal(signal.SIGALRM, late)
    out = open("/tmp/w/scratch/c/explore.txt", "a")
    end = time.monotonic() + float(os.environ.get("SECS", "200"))
    n = 0
    seen = collections.Counter()
    slow = []
    for words in F.commands(random.Random(int(os.environ.get("SEED", "1")))):
        if time.monotonic() > end:
            break
        shutil.rmtree("new", ignore_errors=True)
        n += 1
        t = time.time()
        signal.alarm(30)
        w = [x[:60] for x in words]
        try:
            status, said = F.run(words, capsys)
            last = (said.strip().splitlines() or [""])[-1]
            if status not in (0, 1, 2) or "Traceback" in said or (status == 1 and not last.startswith("ivlens: ")):
                print("BAD", w, status, said[-300:], file=out)
            if len(last) > 1200:
                print("LONG", w, len(last), last[:200], file=out)
            seen[status] += 1
            print("ok", status, w, last[:260], file=out)
        except Late:
            print("LATE", w, "".join(traceback.format_exc().splitlines(True)[-12:-2]), file=out)
        except BaseException as e:
            print(
                "RAISED",
                w,
                type(e).__name__,
                str(e)[:200],
                "|",
                [f"{f.filename.split('/')[-1]}:{f.lineno}" for f in traceback.extract_tb(e.__traceback__)][-6:],
                file=out,
            )
        signal.alarm(0)
        if time.time() - t > 8:
            slow.append((w, time.time() - t))
        out.flush()
    after = F.contents(workshop)
    print("CHANGED", [p for p in before if after.get(p) != before[p]], n, seen, slow[:20], file=out)
