"""Which source the program ran from and what was typed, without anything that names a person, a
machine or a secret."""

import hashlib
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
COMMIT_VARIABLE = "LORA_PROFILER_COMMIT"
"""Carries the commit where the files travelled without their repository."""

_GIT_SECONDS = 5.0
_LONGEST_WORD = 200
_SECRET_NAME = re.compile(r"token|secret|passw|credential|api.?key", re.IGNORECASE)
_SECRET = re.compile(
    r"\b(?:hf_|sk-|gh[a-z]_|github_pat_|glpat-|xox[a-z]-|AKIA|eyJ)\S+|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{20,}"
)
"""Known prefixes of keys, and twenty letters and digits or more in one run: no option or model is
called that."""

_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+\- ]+)+[\\/]([\w.+\-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVersion:
    """The source tree: its commit, whether the package differs from it, and 12 hex digits of the
    difference."""

    commit: str | None = None
    dirty: bool | None = None
    diff_hash: str | None = None


def source(package: Path = PACKAGE, environ: Mapping[str, str] | None = None) -> SourceVersion:
    """The commit of the repository that tracks `package`, or what `LORA_PROFILER_COMMIT` gives;
    nothing for an installed one.

    A repository that merely lies around the package, as around a virtual environment in a project's
    folder, is not asked.
    """
    env = os.environ if environ is None else environ
    if _git(package, env, "ls-files", "--error-unmatch", "--", "__init__.py") is None:
        given = env.get(COMMIT_VARIABLE, "").lower()
        return SourceVersion(commit=given if re.fullmatch("[0-9a-f]{7,40}", given) else None)
    commit = _git(package, env, "rev-parse", "HEAD")
    difference = _git(package, env, "diff", "HEAD", "--binary", "--", ".")
    untracked = _git(package, env, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    if commit is None or difference is None or untracked is None:
        return SourceVersion()
    digest = hashlib.sha256(difference)
    new = [name for name in untracked.split(b"\0") if name]
    for name in new:
        digest.update(name + b"\0" + (package / os.fsdecode(name)).read_bytes())
    dirty = bool(difference or new)
    return SourceVersion(
        commit=commit.decode().strip(),
        dirty=dirty,
        diff_hash=digest.hexdigest()[:12] if dirty else None,
    )


def _git(folder: Path, environ: Mapping[str, str], *arguments: str) -> bytes | None:
    """What git says in `folder`; None if it refuses, is not there, or takes longer than a few
    seconds."""
    # without a hook's GIT_DIR, which is another's
    env = {name: value for name, value in environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def public_command(argv: Sequence[str]) -> str:
    """A command line that may be published: paths and addresses by their last part, what looks like
    a key as `***`."""
    words = (
        ["lora-profile" if Path(argv[0]).name == "__main__.py" else argv[0], *argv[1:]]
        if argv
        else []
    )
    public: list[str] = []
    hide_next = False
    for word in words:
        option, equals, value = (
            word.partition("=") if re.match(r"--[\w-]+=", word) else ("", "", word)
        )
        hide = hide_next or bool(equals and _SECRET_NAME.search(option))
        shown = "***" if hide else f"{option}{equals}{public_word(value)}"
        public += [option, shown] if hide and option else [shown]
        hide_next = not equals and word.startswith("-") and bool(_SECRET_NAME.search(word))
    return shlex.join(public)


def public_word(word: str) -> str:
    """`word` without folders, addresses, keys and the names of user and machine. A regular
    expression keeps its backslashes."""
    separator = "/" if word.startswith("re:") else r"[/\\]"
    names = {
        Path(os.path.expanduser("~")).name,
        platform.node(),
        *map(os.environ.get, ("USER", "LOGNAME", "USERNAME")),
    }
    without_addresses = re.sub(
        r"\w+://\S*",
        lambda match: re.split(r"[?#]", match[0])[0].rstrip("/").rpartition("/")[2],
        word,
    )
    parts = re.split(r"([,:;\s])", without_addresses)
    for i, part in enumerate(parts):
        last = re.split(separator, part.rstrip("/"))[-1]
        parts[i] = "***" if last and (last in names or "@" in last) else _SECRET.sub("***", last)
    return "".join(parts)[:_LONGEST_WORD]


def without_paths(text: str) -> str:
    """`text` with every absolute path cut to its last part."""
    return _PATH.sub(r"\1", text)
