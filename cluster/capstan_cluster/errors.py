"""What this package raises: one error, which says what is wrong and what to do about it."""


class ClusterError(Exception):
    """Something the person at the keyboard can act on; the command line prints it without a traceback."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """`message` says what is wrong, `remedy` what to do."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Both, on two lines."""
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message
