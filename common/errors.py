"""The exceptions that are meant for people; entry points print them as one line."""


class UserError(Exception):
    """Input that cannot work: says what is wrong and what to do (exit code 2)."""


class TrainingError(Exception):
    """Training that cannot go on, for example a loss that is not a number (exit code 1)."""
