"""The end of what a program printed, made fit for a person and for a status: bytes from a sandbox are hostile."""

from controller.backends import Tail

TAIL_BYTES = 16 * 1024
"""Of each stream, in the status."""


def _decoded(data: bytes) -> str:
    """UTF-8 text of at most TAIL_BYTES, whatever was printed; a character cut at the start is left out."""
    end = data[-TAIL_BYTES:]
    if len(data) > TAIL_BYTES:
        end = end.lstrip(bytes(range(0x80, 0xC0)))
    text = end.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    while len(text.encode()) > TAIL_BYTES:  # replacement characters are longer than what they replace
        text = text[len(text) // 8 + 1 :]
    return text


def tail_of(stdout: bytes, stderr: bytes, *, cut: bool = False) -> Tail:
    """`cut`: something is known to be missing before these bytes."""
    return Tail(_decoded(stdout), _decoded(stderr), truncated=cut or max(len(stdout), len(stderr)) > TAIL_BYTES)
