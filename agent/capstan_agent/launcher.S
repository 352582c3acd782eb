# The runner's entry point, `run`: a static x86-64 program with no libc, because the user's image may have
# none, or another. It starts the interpreter that lies beside it:
#
#     D/lib/ld.so --inhibit-cache --library-path D/lib D/bin/python3 -ISB -Xutf8 -m capstan_agent.launched ARGV...
#
# D is the folder of the path it was started by (AT_EXECFN, as getauxval(3) gives it), so the folder can lie
# anywhere. The environment passes unchanged, save that the first letter of every LD_... variable becomes the
# byte 1: an LD_PRELOAD made for the user's C library would break our interpreter. capstan_agent.launched puts
# the names back for the user's command.
#
# launcher.py holds these instructions assembled; a test assembles this file and compares.
    .intel_syntax noprefix
    .text
_start:
    mov     r12, rsp                    # [r12] argc, argv..., 0, envp..., 0, auxiliary vector
    mov     rcx, [rsp]
    lea     r13, [rsp + rcx*8 + 16]     # r13: envp
    mov     rsi, r13
environment:
    lodsq
    test    rax, rax
    jz      auxiliary
    mov     edx, [rax]                  # "LD_" and whatever follows; the stack does not end here
    and     edx, 0xffffff
    cmp     edx, 0x5f444c               # "LD_", little-endian
    jne     environment
    mov     byte ptr [rax], 1
    jmp     environment
auxiliary:
    lodsq
    mov     rdx, rax
    lodsq
    cmp     edx, 31                     # AT_EXECFN: the path given to execve(2)
    je      found
    test    edx, edx                    # AT_NULL: not there; argv[0] is nearly as good
    jnz     auxiliary
    mov     rax, [r12 + 8]
found:
    mov     r14, rax                    # r14: that path
    mov     rsi, rax
    xor     ecx, ecx
    xor     ebx, ebx                    # ebx: its length up to and with the last slash
scan:
    lodsb
    inc     ecx
    cmp     al, '/'
    cmove   ebx, ecx
    test    al, al
    jnz     scan

    # The new argument vector ends with the old one: its first words are pushed, last to first, on the place
    # of argc and below. The three paths are written 16 KiB further down; PATH_MAX is 4 KiB.
    lea     rdi, [r12 - 0x4000]
    lea     rsp, [r12 + 8]
    lea     rax, [rip + module]
    push    rax
    lea     rax, [rip + option_m]
    push    rax
    lea     rax, [rip + option_utf8]
    push    rax
    lea     rax, [rip + options]
    push    rax
    lea     rdx, [rip + python]
    call    join
    push    rax
    lea     rdx, [rip + library]
    call    join
    push    rax
    lea     rax, [rip + library_path]
    push    rax
    lea     rax, [rip + inhibit_cache]
    push    rax
    lea     rdx, [rip + loader]
    call    join
    push    rax
    mov     rdi, rax
    mov     rsi, rsp
    mov     rdx, r13
    mov     eax, 59                     # execve
    syscall
    mov     edi, 2                      # it failed: say so on standard error
    lea     rsi, [rip + failed]
    mov     edx, failed_end - failed
    mov     eax, 1                      # write
    syscall
    mov     edi, 126
    mov     eax, 231                    # exit_group
    syscall

join:                                   # rdx: a name; writes D + name at rdi; returns where in rax
    mov     rax, rdi
    mov     rsi, r14
    mov     ecx, ebx
    rep     movsb
    mov     rsi, rdx
next:
    movsb
    cmp     byte ptr [rdi - 1], 0
    jne     next
    ret

loader:         .asciz "lib/ld.so"
library:        .asciz "lib"
python:         .asciz "bin/python3"
inhibit_cache:  .asciz "--inhibit-cache"
library_path:   .asciz "--library-path"
options:        .asciz "-ISB"
option_utf8:    .asciz "-Xutf8"
option_m:       .asciz "-m"
module:         .asciz "capstan_agent.launched"
failed:         .ascii "capstan: the runner cannot start: the files beside it are missing or damaged\n"
failed_end:
