"""Output that is closed, full, or has no reader: statuses as a shell expects them, never a traceback."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

COMMANDS = ["--help", "data", "try"]
TRY = (  # many lines on both outputs, and a file that is opened meanwhile
    "import sys, types\nfrom mmclr import cli\n"
    "def main(args):\n"
    "    with open('opened', 'w'):\n"
    "        for n in range(5000): print('line', n); n % 100 or print('note', file=sys.stderr)\n"
    "module = types.ModuleType('a'); module.main = main; sys.modules['a'] = module\n"
    "cli.COMMANDS['try'] = 'a'\n"
    "sys.exit(cli.main(sys.argv[1:]))\n"
)


def shell(line, cwd, **env):
    """Run a line of bash in which $MMCLR is the command with one more (`try`); return how it ended and what it said."""
    env = {**os.environ, "PYTHONPATH": os.getcwd(), **env}
    (cwd / "try.py").write_text(TRY)
    env["MMCLR"] = f"{sys.executable} -W error try.py"
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", [*COMMANDS, pytest.param("papers", marks=pytest.mark.slow)])
def test_who_has_no_reader_ends_quietly(command, tmp_path):
    done = shell(f"$MMCLR {command} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.stdout.strip(), done.stderr.replace("note\n", "")) == (str(128 + signal.SIGPIPE), "")
    done = shell(f"$MMCLR {command} 2>&1 | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.stdout.strip(), done.stderr) == (str(128 + signal.SIGPIPE), "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_outputs_end_nothing(closed, tmp_path):
    """And no file takes the place of one: what is printed would be written into it."""
    done = shell(f"$MMCLR try {closed}", tmp_path)
    assert done.returncode == 0
    assert done.stderr.replace("note\n", "") == ""
    assert (tmp_path / "opened").read_text() == ""


def test_a_full_disk_under_the_output_is_a_sentence(tmp_path):
    done = shell("$MMCLR try > /dev/full", tmp_path)
    assert done.returncode == 2
    assert "mmclr try: standard output: No space left on device; make room" in done.stderr
    assert "Traceback" not in done.stderr


def test_letters_that_an_output_lacks_are_no_error(tmp_path):
    code = "from mmclr import output\noutput.guard()\nprint('\\u00e9\\ud800')"
    done = shell(f'{sys.executable} -c "{code}"', tmp_path, PYTHONIOENCODING="ascii")
    assert done.stdout == "\\xe9\\ud800\n"


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("def main(args): raise FileNotFoundError(2, 'No usable temporary directory found in [1]')", "set TMPDIR to a"),
        ("import os\ndef main(args): os.mkdir('a'); os.chdir('a'); os.rmdir('../a'); os.getcwd()", "has been deleted"),
    ],
)
def test_folders_that_are_gone_are_a_sentence(setup, said, tmp_path, monkeypatch, capsys):
    from mmclr.errors import run

    monkeypatch.chdir(tmp_path)
    names = {}
    exec(setup, names)
    assert run("mmclr try", names["main"], []) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="slurm.sh is for bash")
@pytest.mark.parametrize(("status", "signalled", "requeued"), [(1, True, True), (0, True, False), (1, False, False)])
def test_slurm_queues_a_run_again_that_ran_out_of_time(status, signalled, requeued, tmp_path):
    """With a scontrol, srun and scancel of our own: told before the limit, the run saves, then the job is requeued."""
    tools = {
        "scontrol": 'echo "$@" >> calls; [ "$1" != show ] || echo host1',
        "scancel": 'echo scancel "$@" >> calls; kill -TERM $(cat srun.pid)',
        "srun": f'echo $$ > srun.pid; trap "sleep 0.3; echo saved >> calls; exit {status}" TERM; touch on; '
        f"for i in $(seq {100 if signalled else 1}); do sleep 0.1; done; exit {status}",
    }
    for name, text in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_ID": "77"}
    script = os.path.abspath("configs/accelerate/slurm.sh")
    job = subprocess.Popen(["bash", script, "clip.yaml"], cwd=tmp_path, env=env)
    while not (tmp_path / "on").exists():
        time.sleep(0.01)
    if signalled:
        job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == status
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ("requeue 77" in calls) == requeued
    assert ("scancel --signal=TERM 77" in calls) == signalled
    assert not requeued or calls.index("saved") < calls.index("requeue 77")
