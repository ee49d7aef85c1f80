/* x86-64, System V ABI. See core/switch.h.
 *
 *   place -> +0   mxcsr, +4 x87 control word
 *            +8   r15 r14 r13 r12 rbx rbp
 *            +56  where to go on */
    .text

    .globl switch_stacks
    .hidden switch_stacks
    .type switch_stacks, @function
    .p2align 4
switch_stacks:                  /* rdi: void **place */
    .cfi_startproc
    pushq %rbp
    .cfi_adjust_cfa_offset 8
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    pushq %r12
    .cfi_adjust_cfa_offset 8
    pushq %r13
    .cfi_adjust_cfa_offset 8
    pushq %r14
    .cfi_adjust_cfa_offset 8
    pushq %r15
    .cfi_adjust_cfa_offset 8
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    movl (%rsp), %r8d
    movzwl 4(%rsp), %r9d

    movq (%rdi), %rax
    movq %rsp, (%rdi)
    movq %rax, %rsp

    xorl (%rsp), %r8d           /* loading mxcsr takes some 60 ns, and it hardly ever differs */
    testl $0xffc0, %r8d         /* but for the flags of what has happened, which nobody needs to keep */
    jne 1f
    cmpw 4(%rsp), %r9w
    je 2f
1:  ldmxcsr (%rsp)
    fldcw 4(%rsp)
2:  addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    popq %r15
    .cfi_adjust_cfa_offset -8
    popq %r14
    .cfi_adjust_cfa_offset -8
    popq %r13
    .cfi_adjust_cfa_offset -8
    popq %r12
    .cfi_adjust_cfa_offset -8
    popq %rbx
    .cfi_adjust_cfa_offset -8
    popq %rbp
    .cfi_adjust_cfa_offset -8
    popq %rcx                   /* not ret: it would return elsewhere than the CPU predicts from the calls */
    .cfi_adjust_cfa_offset -8
    .cfi_register %rip, %rcx
    jmpq *%rcx
    .cfi_endproc
    .size switch_stacks, . - switch_stacks

    .globl switch_prepare
    .hidden switch_prepare
    .type switch_prepare, @function
    .p2align 4
switch_prepare:                 /* rdi: top, rsi: begin, rdx: argument */
    .cfi_startproc
    andq $-16, %rdi
    leaq -64(%rdi), %rax
    stmxcsr (%rax)
    fnstcw 4(%rax)
    movq $0, 8(%rax)
    movq $0, 16(%rax)
    movq %rsi, 24(%rax)         /* r13: begin */
    movq %rdx, 32(%rax)         /* r12: argument */
    movq $0, 40(%rax)
    movq $0, 48(%rax)           /* rbp: the chain of frames ends here */
    leaq begin_here(%rip), %rcx
    movq %rcx, 56(%rax)
    ret
    .cfi_endproc
    .size switch_prepare, . - switch_prepare

    .type begin_here, @function
begin_here:                     /* rsp is a multiple of 16 */
    .cfi_startproc
    .cfi_undefined %rip         /* backtraces end here */
    movq %r12, %rdi
    callq *%r13
    ud2
    .cfi_endproc
    .size begin_here, . - begin_here

    .section .note.GNU-stack, "", @progbits
