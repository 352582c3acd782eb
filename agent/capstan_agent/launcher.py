"""The static program that starts the runner where the user's image offers nothing: no libc, no shell.

`launcher.S` is its source and says how it works. The instructions are kept here assembled, so that building
the agent's image takes no compiler; a test assembles the source and compares.
"""

import struct

# fmt: off
_INSTRUCTIONS = bytes.fromhex(
    "4989e4488b0c244c8d6ccc104c89ee48ad4885c074158b1081e2ffffff0081fa4c445f0075e9c60001ebe448ad4889c2"
    "48ad83fa1f740985d275f0498b4424084989c64889c631c931dbacffc13c2f0f44d984c075f4498dbc2400c0ffff498d"
    "642408488d05e100000050488d05d600000050488d05c700000050488d05ba00000050488d1587000000e85f00000050"
    "488d1576000000e85200000050488d058900000050488d057100000050488d154f000000e835000000504889c74889e6"
    "4c89eab83b0000000f05bf02000000488d358c000000ba4d000000b8010000000f05bf7e000000b8e70000000f054889"
    "f84c89f689d9f3a44889d6a4807fff0075f9c36c69622f6c642e736f006c69620062696e2f707974686f6e33002d2d69"
    "6e68696269742d6361636865002d2d6c6962726172792d70617468002d495342002d5875746638002d6d006361707374"
    "616e5f6167656e742e6c61756e63686564006361707374616e3a207468652072756e6e65722063616e6e6f7420737461"
    "72743a207468652066696c65732062657369646520697420617265206d697373696e67206f722064616d616765640a"
)
# fmt: on

_BASE = 0x400000
_HEADERS = 64 + 2 * 56


def instructions() -> bytes:
    """The assembled text of launcher.S."""
    return _INSTRUCTIONS


def launcher() -> bytes:
    """The whole program: an ELF header, one segment to run, a stack that is not, and the instructions."""
    size = _HEADERS + len(_INSTRUCTIONS)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian, ELF version 1, System V
    header = identity + struct.pack(
        "<HHIQQQIHHHHHH",
        2,  # ET_EXEC
        62,  # EM_X86_64
        1,
        _BASE + _HEADERS,  # entry
        64,  # program headers follow
        0,
        0,
        64,
        56,
        2,
        0,
        0,
        0,
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD, read and execute
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK, read and write
    return header + load + stack + _INSTRUCTIONS
