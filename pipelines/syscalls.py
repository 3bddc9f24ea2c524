"""System calls that no lane's library needs, forbidden by a seccomp filter: what Landlock and namespaces do not reach.

Looking into or stopping other processes, changing the modes, owners, times or attributes of files (in which something
could be kept between studies), memory shared by name, watching folders, new namespaces by whichever call (within one a
process has every capability again), mounts, kernel interfaces with a history of holes, sockets by a path. A forbidden
call fails with EPERM; a library that asks for one finds it refused and goes on.

Source: seccomp(2), Linux user-space API guide "Seccomp BPF"; numbers: arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import platform
import struct

__all__ = ["FORBIDDEN", "forbid"]

# name -> number on x86-64, on aarch64; None where there is no such call
FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "setpriority": (141, 140), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "setsid": (112, 157), "setpgid": (109, 154),
    # what stays with a file
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "file_setattr": (469, 469), "mknod": (133, None), "mknodat": (259, 33),
    # what others do in folders
    "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    # memory and queues by name
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semctl": (66, 191),
    "msgget": (68, 186), "msgctl": (71, 187), "mq_open": (240, 180), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162), "personality": (135, 92),
}  # fmt: skip
_SOCKET, _PAIR, _PRLIMIT, _CLONE, _CLONE3 = (41, 198), (53, 199), (302, 261), (56, 220), (435, 435)
_FAMILIES = (2, 10, 16)  # INET, INET6, NETLINK: of a namespace of its own; never UNIX, which goes by a path
_CONNECTED = (1, 5)  # STREAM, SEQPACKET: a pair of another type can still send to a path
_KIND = 0xF  # of a socket's type, without its flags
_NAMESPACES = 0x7E020000  # CLONE_NEW* of clone
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _ATLEAST, _SET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
_ABSENT = 0x00050026  # ENOSYS: of clone3, whose flags lie in memory, so that libc takes clone
_NUMBER, _ARCH, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in seccomp_data; arguments are little-endian 64-bit
_X32 = 0x40000000


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def forbid(*, sockets: bool) -> bool:
    """Forbid them for this thread and all that it starts; whether the kernel and this architecture can.

    Args:
        sockets: leave internet sockets be, where they lead nowhere.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    program = _filter(*known, _FAMILIES if sockets else ())
    raw = ctypes.create_string_buffer(b"".join(program))
    loaded = _Program(len(program), ctypes.cast(raw, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return int(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(loaded), 0, 0)) == 0


def _filter(column: int, architecture: int, families: tuple[int, ...]) -> list[bytes]:
    """The program: each forbidden number jumps to the refusal at the end."""
    numbers = [pair[column] for pair in FORBIDDEN.values() if pair[column] is not None]
    parts: dict[str, list[tuple[int, int, str, str]]] = {  # code, operand, where to if so, if not
        "number": [
            (_LOAD, _ARCH, "", ""),
            (_EQUAL, architecture, "", "refuse"),
            (_LOAD, _NUMBER, "", ""),
            (_ATLEAST, _X32, "refuse", ""),
            *((_EQUAL, number, "refuse", "") for number in numbers if number is not None),
            (_EQUAL, _SOCKET[column], "socket", ""),
            (_EQUAL, _PAIR[column], "pair", ""),
            (_EQUAL, _CLONE[column], "clone", ""),
            (_EQUAL, _CLONE3[column], "absent", ""),
            (_EQUAL, _PRLIMIT[column], "limit", "allow"),
        ],
        "socket": [(_LOAD, _FIRST, "", ""), *_one_of(families)],
        "pair": [(_LOAD, _SECOND, "", ""), (_AND, _KIND, "", ""), *_one_of(_CONNECTED)],
        "clone": [(_LOAD, _FIRST, "", ""), (_SET, _NAMESPACES, "refuse", "allow")],
        "limit": [(_LOAD, _FIRST, "", ""), (_EQUAL, 0, "allow", "refuse")],  # one's own alone
        "absent": [(_RETURN, _ABSENT, "", "")],
        "allow": [(_RETURN, _ALLOW, "", "")],
        "refuse": [(_RETURN, _REFUSE, "", "")],
    }
    at: dict[str, int] = {}
    lines: list[tuple[int, int, str, str]] = []
    for name, part in parts.items():
        at[name] = len(lines)
        lines += part
    return [
        struct.pack("=HBBI", code, at[yes] - i - 1 if yes else 0, at[no] - i - 1 if no else 0, operand)
        for i, (code, operand, yes, no) in enumerate(lines)
    ]


def _one_of(values: tuple[int, ...]) -> list[tuple[int, int, str, str]]:
    return [*((_EQUAL, value, "allow", "") for value in values), (_RETURN, _REFUSE, "", "")]
