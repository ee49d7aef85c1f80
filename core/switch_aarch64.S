/* 64-bit ARM, AAPCS64. See core/switch.h.
 *
 *   place -> +0    x19 to x28, x29 (frame), x30 (where to go on)
 *            +96   d8 to d15
 *            +160  fpcr */
    .text

    .globl switch_stacks
    .hidden switch_stacks
    .type switch_stacks, %function
    .p2align 4
switch_stacks:                  /* x0: void **place */
    .cfi_startproc
    sub sp, sp, #176
    .cfi_adjust_cfa_offset 176
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    .cfi_offset x29, -96
    .cfi_offset x30, -88
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mrs x9, fpcr
    str x9, [sp, #160]

    ldr x10, [x0]
    mov x11, sp
    str x11, [x0]
    mov sp, x10

    ldr x10, [sp, #160]
    cmp x9, x10                 /* writing it is dear, and it hardly ever differs */
    b.eq 1f
    msr fpcr, x10
1:  ldp d14, d15, [sp, #144]
    ldp d12, d13, [sp, #128]
    ldp d10, d11, [sp, #112]
    ldp d8, d9, [sp, #96]
    ldp x29, x30, [sp, #80]
    ldp x27, x28, [sp, #64]
    ldp x25, x26, [sp, #48]
    ldp x23, x24, [sp, #32]
    ldp x21, x22, [sp, #16]
    ldp x19, x20, [sp, #0]
    add sp, sp, #176
    .cfi_adjust_cfa_offset -176
    .cfi_restore x29
    .cfi_restore x30
    br x30                      /* not ret: it would return elsewhere than the CPU predicts from the calls */
    .cfi_endproc
    .size switch_stacks, . - switch_stacks

    .globl switch_prepare
    .hidden switch_prepare
    .type switch_prepare, %function
    .p2align 4
switch_prepare:                 /* x0: top, x1: begin, x2: argument */
    .cfi_startproc
    and x0, x0, #-16
    sub x0, x0, #176
    stp x2, x1, [x0, #0]        /* x19: argument, x20: begin */
    stp xzr, xzr, [x0, #16]
    stp xzr, xzr, [x0, #32]
    stp xzr, xzr, [x0, #48]
    stp xzr, xzr, [x0, #64]
    adr x9, begin_here
    stp xzr, x9, [x0, #80]      /* x29: the chain of frames ends here */
    stp xzr, xzr, [x0, #96]
    stp xzr, xzr, [x0, #112]
    stp xzr, xzr, [x0, #128]
    stp xzr, xzr, [x0, #144]
    mrs x9, fpcr
    str x9, [x0, #160]
    ret
    .cfi_endproc
    .size switch_prepare, . - switch_prepare

    .type begin_here, %function
begin_here:
    .cfi_startproc
    .cfi_undefined x30          /* backtraces end here */
    mov x0, x19
    blr x20
    brk #0
    .cfi_endproc
    .size begin_here, . - begin_here

    .section .note.GNU-stack, "", %progbits
