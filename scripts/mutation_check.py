"""Do the tests notice bugs? Plants those of mutations.toml one at a time in a copy and runs the tests.

    python scripts/mutation_check.py                 all of them; exit 0 if at least 95 % are noticed, else 5
    python scripts/mutation_check.py --only norm     those whose place or description contains "norm"
    python scripts/mutation_check.py --check         only whether every bug can still be planted

For each bug first the tests that mutations.toml names run, up to the first failure; if they pass, the whole
suite. In the end the tests that noticed a bug run once on the unchanged copy, where they must pass: a test
that always fails notices nothing. The repository itself is never touched.
"""

import argparse
import multiprocessing
import os
import queue
import re
import shutil
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Read by its path: `import cnn` here would give the tests this package in the place of the copy's.
_spec = spec_from_file_location("planting", ROOT / "cnn" / "course" / "planting.py")
_planting = module_from_spec(_spec)
_spec.loader.exec_module(_planting)
Misplaced, planted = _planting.Misplaced, _planting.planted
REQUIRED = 0.95
_NOT_COPIED = shutil.ignore_patterns(".git", ".pytest_cache", ".ruff_cache", "runs", "build", "*.egg-info")

# read when the libraries are imported, so set before any process starts; waiting threads should sleep
os.environ |= {"CNN_TEST_SEED": "1", "OMP_WAIT_POLICY": "passive", "PYTHONDONTWRITEBYTECODE": "1"}
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["numba", "torch", "matplotlib.figure", "pydantic", "PIL.Image"])


@dataclass
class Result:
    """What became of one bug: ``by`` is the test that noticed it, None if none did."""

    number: int
    mutation: dict
    by: str | None
    seconds: float


def main():
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="bugs with this in place or description")
    parser.add_argument("--check", action="store_true", help="only check that every bug can be planted")
    parser.add_argument("--named", action="store_true", help="do not try survivors on the whole suite")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="bugs at a time (default 1)")
    parser.add_argument("--timeout", type=float, default=1800, metavar="S", help="seconds for one bug")
    args = parser.parse_args()
    mutations = tomllib.loads((ROOT / "scripts" / "mutations.toml").read_text(encoding="utf-8"))["mutation"]
    if complaints := stale(mutations):
        print("\n".join(complaints), file=sys.stderr)
        return 2
    chosen = [m for m in mutations if args.only in m["at"] or args.only in m["what"]]
    print(f"{len(chosen)} of {len(mutations)} bugs, each can be planted", flush=True)
    if args.check or not chosen:
        return 0
    with tempfile.TemporaryDirectory(prefix="cnn-bugs-") as folder, ThreadPoolExecutor(args.jobs) as pool:
        free = queue.SimpleQueue()
        for job in range(args.jobs):
            shutil.copytree(ROOT, Path(folder) / f"copy{job}", ignore=_NOT_COPIED)
            free.put(Path(folder) / f"copy{job}")
        results = list(pool.map(lambda task: attempt(free, *task, args), enumerate(chosen, 1)))
        broken = control(free.get(), sorted({r.by for r in results if r.by and r.by.startswith("tests/")}))
    return conclude(results, broken)


def stale(mutations):
    """Return a line for each bug whose place in the code is gone or is no longer unique."""
    lines = []
    for m in mutations:
        try:
            planted(ROOT, [m])
        except Misplaced as error:
            lines.append(f"{m['what']}: {error}")
    return lines


def attempt(free, number, mutation, args):
    """Plant one bug in a free copy, run tests until one fails, put the file back; return the Result."""
    copy, begin = free.get(), time.monotonic()
    ((file, text),) = planted(copy, [mutation]).items()
    path = copy / file
    original, times = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(text, encoding="utf-8")
    try:
        by = failing_test(copy, mutation["tests"], args.timeout)
        if by is None and not args.named:
            by = failing_test(copy, ["tests"], args.timeout)
    finally:
        path.write_text(original, encoding="utf-8")
        # the same time stamp, or Numba would compile the unchanged file again
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        free.put(copy)
    result = Result(number, mutation, by, time.monotonic() - begin)
    print(row(result), flush=True)
    return result


def failing_test(copy, arguments, timeout):
    """Return the id of the first test that fails (or "timeout", or what pytest could not do), else None."""
    code, output = pytest(copy, ["-x", *arguments], timeout)
    if code is None:
        return "timeout"
    if code == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::.*?)?)(?: - |$)", output, re.MULTILINE)
    if found:
        return found.group(1)
    if code == 1:
        return "a failure without a name"
    raise SystemExit(f"pytest {' '.join(arguments)} could not run:\n{output}")


def pytest(copy, arguments, timeout):
    """Run pytest on the copy's package; return (exit code, output), the code None after ``timeout`` seconds.

    The process is forked from one that has imported the large libraries already, which takes longer than most
    tests.
    """
    output = copy.parent / f"{copy.name}.txt"
    process = _FORKS.Process(target=_run_pytest, args=(copy, output, arguments))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None, ""
    return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def _run_pytest(copy, output, arguments):
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)  # for the commands that tests start
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True
    import pytest

    import cnn

    if not Path(cnn.__file__).is_relative_to(copy):
        raise SystemExit(f"imported {cnn.__file__}, expected the copy {copy}")
    code = pytest.main(["-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *arguments])
    sys.stdout.flush()
    os._exit(int(code))  # without waiting for threads that a bug may have left behind


def control(copy, tests):
    """Return those of ``tests`` that fail on the unchanged copy."""
    if not tests:
        return []
    print(f"the {len(tests)} tests that noticed something, on the unchanged code ...", flush=True)
    code, output = pytest(copy, tests, None)
    if code == 0:
        return []
    return re.findall(r"^(?:FAILED|ERROR) (tests/.*?)(?: - |$)", output, re.MULTILINE) or [output]


def row(result):
    """Return one line of the table."""
    mutation, verdict = result.mutation, f"killed by {result.by}" if result.by else "SURVIVED"
    what = f"{result.number:3d}  {mutation['at']:42s}  {mutation['what']:56s}"
    return f"{what}  {verdict}  {result.seconds:.0f} s"


def conclude(results, broken):
    """Print the summary; return the exit code."""
    survivors = [r for r in results if not r.by]
    for test in broken:
        print(f"fails on the unchanged code, so it notices nothing: {test}")
    for result in survivors:
        print(f"survived: {result.mutation['at']}: {result.mutation['what']}")
    killed = len(results) - len(survivors)
    share = killed / len(results)
    print(f"{killed} of {len(results)} bugs noticed ({100 * share:.1f} %), required {100 * REQUIRED:.0f} %")
    return 0 if share >= REQUIRED and not broken else 5


if __name__ == "__main__":
    sys.exit(main())
