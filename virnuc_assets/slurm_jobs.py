"""Slurm's commands: jobs submitted, found by their names, ended. Nothing that a tag says reaches a shell."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from virnuc_assets.errors import VirnucError

_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
# Options of sbatch by their names, with `_` for `-`, and the form of their values.
FORMS = {
    **dict.fromkeys(("partition", "account", "qos", "reservation"), rf"{_WORD}(,{_WORD})*"),
    **{"constraint": rf"{_WORD}([&|]{_WORD})*", "gres": rf"{_WORD}(:{_WORD})*(,{_WORD}(:{_WORD})*)*"},
    **{"cpus_per_task": "[1-9][0-9]{0,5}", "mem": "[0-9]{1,12}[KMGT]?"},
    "time": "([0-9]{1,4}-)?[0-9]{1,6}(:[0-9]{1,2}){0,2}",
}
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
_ANSWER_SECONDS = 60.0
# Of sbatch, that it reached nobody, or shall be asked again later; all else that it says is about the request.
_UNANSWERED = re.compile(
    r"no answer in|unable to contact|socket|connection|connect failure|temporar|retry", re.IGNORECASE
)
_ROW = re.compile(
    r"^(?P<number>[0-9]+)\|(?P<state>\w+)[^|\n]*\|(?P<reason>[^|\n]*)\|(?P<name>[^|\n]*)\|?$", re.MULTILINE
)
_SINCE = "now-30days"  # without it sacct looks at today's jobs only

Request = dict[str, str | int | None]  # None: what others ask for is not wanted


class ControllerAway(VirnucError):
    """Slurm's controller did not answer: of no job anything is known."""


@dataclass(frozen=True)
class Job:
    """What Slurm tells of a job: its id, its state, e.g. PENDING, why it pends or ended, and its name."""

    number: str
    state: str
    reason: str
    name: str

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs or will; a state that nobody knows is no end."""
        return self.state in _ENDED

    def __str__(self) -> str:
        return f"Slurm job {self.number} is {self.state} (reason {self.reason})"


def request(text: str, where: str) -> Request:
    """What a tag asks for.

    Raises:
        VirnucError: it is no JSON object, has an unknown key, or a value of another form.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise VirnucError(f'{where} is {text!r}; expected a JSON object, e.g. {{"gres": "gpu:1"}}')
    return checked(values, where)


def checked(values: Mapping[str, object], where: str) -> Request:
    """The same values, in the form that sbatch takes.

    Raises:
        VirnucError: names each that is not, and where it stands.
    """
    good: Request = {key: value for key, value in values.items() if key in FORMS and _fits(FORMS[key], value)}  # type: ignore[misc]
    if wrong := {key: value for key, value in values.items() if key not in good}:
        raise VirnucError(f"{where}: {wrong}; expected some of {', '.join(FORMS)}, in the form that sbatch takes")
    return good


def _fits(form: str, value: object) -> bool:
    return value is None or (type(value) in (str, int) and re.fullmatch(form, str(value)) is not None)


def options(asked: Request) -> list[str]:
    """A word for each thing asked for."""
    return [f"--{key.replace('_', '-')}={value}" for key, value in asked.items() if value is not None]


def submit(name: str, asked: Sequence[str], command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submit a job once; where the answer is lost it is looked for, and never submitted again.

    Args:
        name: of the job; no other bears it.
        asked: options of sbatch.
        command: what the job executes.
        environment: the job's whole environment, and sbatch's.

    Returns:
        The job's id.

    Raises:
        ControllerAway: no answer, neither to this nor to the question whether the job is there.
        VirnucError: Slurm refused the job; the message is sbatch's.
    """
    fixed = [f"--job-name={name}", "--parsable", "--export=ALL", "--no-requeue"]
    done = _run(["sbatch", *asked, *fixed], f"#!/bin/sh\nexec {shlex.join(command)}\n", environment)
    if done.returncode == 0:
        return done.stdout.strip().split(";")[0]  # a cluster's name may follow
    try:
        job = jobs_now(name).get(name)
    except ControllerAway:
        raise ControllerAway(f"sbatch got no answer: {done.stderr.strip()}") from None
    if job is None and _UNANSWERED.search(done.stderr):
        raise ControllerAway(f"sbatch got no answer: {done.stderr.strip()}")
    if job is None:
        raise VirnucError(f"sbatch refused the job: {done.stderr.strip()}")
    return job.number


def jobs_now(name: str | None = None) -> dict[str, Job]:
    """This user's jobs by their names, or the one of a name: all that live, and those that ended minutes ago.

    Raises:
        ControllerAway: it did not answer.
    """
    chosen = [f"--name={name}"] if name else []
    fields = "JobID:|,State:|,Reason:|,Name:|"
    return _by_name(_answer(["squeue", "--me", "--noheader", "--states=all", *chosen, f"--Format={fields}"]))


def job_before(name: str) -> Job | None:
    """A job that the controller forgot; None where accounting does not know it either, or is not set up."""
    if shutil.which("sacct") is None:
        return None
    chosen = [f"--name={name}", f"--starttime={_SINCE}", "--format=JobID,State,Reason,JobName"]
    return _by_name(_run(["sacct", "--noheader", "--parsable2", "--allocations", *chosen]).stdout).get(name)


def exit_code(number: str) -> str:
    """Status and signal of a job that ended minutes ago, e.g. 0:9; "not known" where the controller forgot it."""
    found = re.search(r" ExitCode=([0-9:]+)", _run(["scontrol", "--oneliner", "show", "job", number]).stdout)
    return found[1] if found else "not known"


def cancel(number: str) -> None:
    """End a job, pending or running.

    Raises:
        ControllerAway: it did not answer.
    """
    _answer(["scancel", number])


def _by_name(lines: str) -> dict[str, Job]:
    """Jobs by name; other jobs of this user may have anything in theirs, and are passed over."""
    return {row["name"]: Job(**row.groupdict()) for row in _ROW.finditer(lines)}


def _answer(command: Sequence[str]) -> str:
    done = _run(command)
    if done.returncode:
        raise ControllerAway(f"{command[0]} got no answer: {done.stderr.strip()}")
    return done.stdout


def _run(
    command: Sequence[str], script: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    told = {"input": script, "env": environment, "timeout": _ANSWER_SECONDS}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, **told)  # type: ignore[call-overload,no-any-return] # noqa: S603
    except FileNotFoundError as error:
        raise VirnucError(f"{command[0]} is not here; Slurm's commands are needed where runs are launched") from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: no answer in {_ANSWER_SECONDS:.0f} s")
