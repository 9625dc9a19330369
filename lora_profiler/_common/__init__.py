"""What several rooms need and none is about: packages, this process, a user's folders, printable
text."""
