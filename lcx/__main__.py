"""The entry point `lcx`: shell completion first, since it must be quick; then the command line inside its
boundary.
"""

from __future__ import annotations

import gc
import os
import sys


def leave_working_folder() -> None:
    """Take no module from the working folder, which `python -m lcx` puts first, nor let processes of ours do so.

    It may be a stranger's: a `yaml.py` in it would run. Where lcx itself lies there, it stays. An empty part of
    PYTHONPATH, as `:/my/place` has one, means that folder, and is hardly ever meant.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        return
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == here:
        return
    if sys.path[:1] in ([""], [here]) and not sys.flags.safe_path:
        del sys.path[0]
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if "" in named:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, named))
        if not any(os.path.abspath(place) == here for place in filter(None, named)):
            sys.path[:] = [place for place in sys.path if place not in ("", here)]


def main() -> None:
    """Run lcx on this process's arguments and exit with its code."""
    leave_working_folder()
    if "_LCX_COMPLETE" in os.environ:
        from lcx.cli.answer import answer

        raise SystemExit(answer(os.environ))
    # Threads that wait by spinning bring a small model to a halt as soon as another program wants a core (measured
    # on 2 cores: 4-11 s a step against 0.3 s). It has to be said before torch loads its thread library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if (
        "RANK" in os.environ and "LCX_LAUNCH_FOLDER" in os.environ
    ):  # one of the processes that a train step started
        from lcx.cli.boundary import attempt
        from lcx.training.launch import work

        code = work(attempt)
    else:
        from lcx.cli.boundary import run

        code = run(sys.argv[1:])
    # An interpreter that ends looks for cycles in all that torch and transformers hold: 1.3 s of an evaluation of 10 s
    gc.freeze()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
