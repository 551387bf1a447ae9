//! Faults of the processor, and panics: each is printed on the console, and then the machine is
//! switched off.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::fmt;
use core::panic::PanicInfo;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::Cr2;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use crate::{POWER_OFF_FAULT, power_off, print_line};

/// The size of the stack for faults. It is a stack of its own, since the program's stack may be at fault.
const STACK: usize = 16 * 1024;
const STACK_INDEX: u16 = 0;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);

// SAFETY: only its address is used, and only by the processor.
unsafe impl Sync for Stack {}

static FAULT_STACK: Stack = Stack(UnsafeCell::new([0; STACK]));
static TSS: Once<TaskStateSegment> = Once::new();
static GDT: Once<(GlobalDescriptorTable, [SegmentSelector; 2])> = Once::new();
static IDT: Once<InterruptDescriptorTable> = Once::new();

/// The registers of a fault, as the entries below push them.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct TrapFrame {
    registers: [u64; 15],
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

const REGISTERS: [&str; 15] = [
    "r15", "r14", "r13", "r12", "r11", "r10", "r9 ", "r8 ", "rbp", "rdi", "rsi", "rdx", "rcx",
    "rbx", "rax",
];

// An entry for each of the processor's faults, 16 bytes apart. Entries of faults without an error
// code push 0 in its place.
global_asm!(
    r#"
    .pushsection .text.guest_faults, "ax"
    .align 16
    .globl guest_fault_entries
guest_fault_entries:
    .set vector, 0
    .rept 32
    .align 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp guest_fault
    .set vector, vector + 1
    .endr
guest_fault:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    and rsp, -16
    call {report}
    ud2
    .popsection
    "#,
    report = sym report,
);

unsafe extern "C" {
    static guest_fault_entries: u8;
}

pub(crate) fn init() {
    let tss = TSS.call_once(|| {
        let mut tss = TaskStateSegment::new();
        let stack = VirtAddr::from_ptr(FAULT_STACK.0.get()) + STACK as u64;
        tss.interrupt_stack_table[usize::from(STACK_INDEX)] = stack;
        tss
    });
    let (gdt, [code, tss]) = GDT.call_once(|| {
        let mut gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let tss = gdt.append(Descriptor::tss_segment(tss));
        (gdt, [code, tss])
    });
    gdt.load();
    // SAFETY: both selectors are in the table that was just loaded, and are of the right kind.
    unsafe {
        CS::set_reg(*code);
        load_tss(*tss);
    }
    IDT.call_once(table).load();
}

fn table() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    let entries = VirtAddr::from_ptr(&raw const guest_fault_entries);
    macro_rules! faults {
        ($($name:ident = $vector:literal),*) => {
            // SAFETY: the entries match the processor's conventions, with and without an error
            // code, and never return; the stack is in the TSS.
            unsafe {
                $(table.$name.set_handler_addr(entries + 16 * $vector).set_stack_index(STACK_INDEX);)*
            }
        };
    }
    faults!(
        divide_error = 0,
        debug = 1,
        non_maskable_interrupt = 2,
        breakpoint = 3,
        overflow = 4,
        bound_range_exceeded = 5,
        invalid_opcode = 6,
        device_not_available = 7,
        double_fault = 8,
        invalid_tss = 10,
        segment_not_present = 11,
        stack_segment_fault = 12,
        general_protection_fault = 13,
        page_fault = 14,
        x87_floating_point = 16,
        alignment_check = 17,
        machine_check = 18,
        simd_floating_point = 19,
        virtualization = 20
    );
    crate::interrupts::add_entries(&mut table);
    table
}

fn name(vector: u64) -> &'static str {
    match vector {
        0 => "division by zero",
        3 => "breakpoint",
        6 => "invalid instruction",
        8 => "double fault",
        13 => "general protection",
        14 => "page fault",
        18 => "machine check",
        _ => "fault",
    }
}

/// An address that may not be canonical, in hexadecimal.
struct Hex(u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

extern "C" fn report(frame: &TrapFrame) -> ! {
    let TrapFrame {
        vector,
        code,
        rip,
        rsp,
        flags,
        ..
    } = *frame;
    print_line!("FAULT: {} (vector {vector}, code {code:#x})", name(vector));
    print_line!("  rip {} rsp {} flags {flags:#x}", Hex(rip), Hex(rsp));
    if vector == 14 {
        let access = if code & 2 == 0 { "reading" } else { "writing" };
        print_line!("  {access} the address {}", Hex(Cr2::read_raw()));
    }
    let registers = frame.registers.iter().zip(REGISTERS);
    for (value, name) in registers.rev() {
        print_line!("  {name} {}", Hex(*value));
    }
    power_off(POWER_OFF_FAULT)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => print_line!("PANIC at {place}: {}", info.message()),
        None => print_line!("PANIC: {}", info.message()),
    }
    power_off(POWER_OFF_FAULT)
}

/// The precompiled `core` refers to this symbol. It is never called, because a panic ends the machine.
// SAFETY: no other object defines the name in a program without Rust's runtime.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
