"""The exceptions that are meant for people, which entry points print as one line; and telling causes apart."""

import errno
import re

# what PyTorch, which raises a RuntimeError for it on a CPU, and the libraries below it say where memory is short
_NO_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory", "ALLOC_FAILED"),
    *("insufficient shared memory", "killed by signal: Killed"),  # of workers that decode images
)


class UserError(Exception):
    """Input that cannot work: says what is wrong and what to do (exit code 2)."""


class TrainingError(Exception):
    """Training that cannot go on, for example a loss that is not a number (exit code 1)."""


def first_line(error: BaseException) -> str:
    """What an exception says, as far as it has room in a line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error means that memory, the host's or a GPU's, does not suffice."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


def memory_shortage(error: BaseException) -> str:
    """What an error for which `is_out_of_memory` holds says, without what it tells about every process and line."""
    if device := re.search(r"^(CUDA|HIP|MPS).*?out of memory.*?(?= GPU |$)", str(error), re.MULTILINE):
        return device[0].rstrip(".")
    wanted = re.search(r"(tried|unable) to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    return f"not enough memory ({wanted[0].lower()})" if wanted else "not enough memory"


def is_damage(error: Exception) -> bool:
    """Whether an error in decoding means that the file is damaged, which can raise almost anything.

    Neither short memory nor a file that may not be read or cannot be reached says anything about its content.
    """
    return not (isinstance(error, OSError | UserError) or is_out_of_memory(error))
