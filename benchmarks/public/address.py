"""Where a public row can be looked up: the address behind the words of its source."""

import re

_COMMIT = re.compile(r"@([0-9a-f]{7,40})\b|\((?:added |[\d-]+, )?([0-9a-f]{7,40})\b")
"""`@876e2ed6`; `(added 1814feb17, 2024-11-18)`, `(2024-04, ff594c231)` and `(e8e1596, 2023-11-30)`.
What stands after the name of another program is that program's commit."""
_LINE = re.compile(r"\bline (\d+)")


def address(published: str) -> str:
    """'owner/name path line 10 @876e2ed6' is the file's tenth line at that commit on GitHub.

    Without a commit it is the file on the default branch, where a line may have moved and is left
    out; without a path the repository. Where several files are named, the first.
    """
    repository, _, rest = published.partition(" ")
    path, _, more = rest.partition(" ")
    home = f"https://github.com/{repository}"
    if not path:
        return home
    commit, line = _COMMIT.search(more), _LINE.search(more)
    if commit is None:
        return f"{home}/blob/HEAD/{path}"
    # Markdown and the like are shown rendered unless asked for plain, and rendered text has no
    # lines to go to.
    plain = "?plain=1" if line and path.endswith((".md", ".mdx", ".rst")) else ""
    return f"{home}/blob/{commit[1] or commit[2]}/{path}{plain}{f'#L{line[1]}' if line else ''}"
