"""What features do not go with: each refusal as its command ends."""

import shlex

from commands import Run, refused
from golden_files import Golden


def test_what_is_refused(run: Run, golden_file: Golden) -> None:
    golden_file.compare_answers(
        "refusals-features", lambda words: refused(run(*shlex.split(words)))
    )
