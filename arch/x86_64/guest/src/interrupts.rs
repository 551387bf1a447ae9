//! Interrupts: they end a wait, and do nothing else. They are off except in [`sleep`], so the code
//! that slept does the work, and no data has to be protected from them.

use core::arch::global_asm;
use core::sync::atomic::AtomicU64;

use x86_64::VirtAddr;
use x86_64::instructions::interrupts::{disable, enable_and_hlt};
use x86_64::instructions::port::Port;
use x86_64::structures::idt::InterruptDescriptorTable;

/// The first vector after those of the processor's faults.
const FIRST: u8 = 32;
const COUNT: u8 = 16;
/// The number of the timer's interrupt.
pub(crate) const TIMER: u8 = 0;

/// The time at which the timer ends a sleep. The clock sets it; the timer's interrupt sets it to 0.
pub(crate) static TIMER_SET_TO: AtomicU64 = AtomicU64::new(0);

/// The two controllers (8259) that every PC has.
const CONTROLLERS: [Controller; 2] = [
    Controller {
        command: 0x20,
        data: 0x21,
        first: FIRST,
        cascade: 4,
    },
    Controller {
        command: 0xa0,
        data: 0xa1,
        first: FIRST + 8,
        cascade: 2,
    },
];

/// The registers of the processor's own controller, which forwards the PC's interrupts, each with its value: the one that
/// switches it on, and the one for its pin 0.
const ON: (usize, u32) = (0xfee0_00f0, 0x1ff);
const PIN: (usize, u32) = (0xfee0_0350, 0x700);

struct Controller {
    command: u16,
    data: u16,
    first: u8,
    /// The place of the second controller, in the form for this controller.
    cascade: u8,
}

// The timer's entry records that the timer is not set any more. Each entry acknowledges the
// interrupt at both controllers.
global_asm!(
    r#"
    .pushsection .text.guest_interrupt, "ax"
    .globl guest_timer_interrupt
    .globl guest_interrupt
guest_timer_interrupt:
    mov qword ptr [rip + {set_to}], 0
guest_interrupt:
    push rax
    mov al, 0x20
    out 0xa0, al
    out 0x20, al
    pop rax
    iretq
    .popsection
    "#,
    set_to = sym TIMER_SET_TO,
);

unsafe extern "C" {
    static guest_timer_interrupt: u8;
    static guest_interrupt: u8;
}

/// Adds the entries of all interrupts to the table.
pub(crate) fn add_entries(table: &mut InterruptDescriptorTable) {
    for number in 0..COUNT {
        let entry = if number == TIMER {
            &raw const guest_timer_interrupt
        } else {
            &raw const guest_interrupt
        };
        let entry = VirtAddr::from_ptr(entry);
        // SAFETY: the code above preserves all registers and returns as an interrupt handler must.
        unsafe { table[FIRST + number].set_handler_addr(entry) };
    }
}

fn write(port: u16, value: u8) {
    // SAFETY: this is a port of the interrupt controllers, which only raise the vectors that this module
    // has entries for.
    unsafe { Port::new(port).write(value) }
}

pub(crate) fn init() {
    for controller in CONTROLLERS {
        write(controller.command, 0x11);
        write(controller.data, controller.first);
        write(controller.data, controller.cascade);
        write(controller.data, 1);
        // All are masked except the line of the second controller.
        let cascade = if controller.first == FIRST { 1 << 2 } else { 0 };
        write(controller.data, !cascade);
    }
    for (register, value) in [ON, PIN] {
        // SAFETY: every x86-64 processor has these registers there.
        unsafe { (register as *mut u32).write_volatile(value) };
    }
}

/// Allows the interrupt with that number to end a [`sleep`].
pub(crate) fn allow(interrupt: u8) {
    if let Some(controller) = CONTROLLERS.get(usize::from(interrupt / 8)) {
        // SAFETY: this reads the mask of the interrupt controller.
        let mask: u8 = unsafe { Port::new(controller.data).read() };
        write(controller.data, mask & !(1 << (interrupt % 8)));
    }
}

/// Sleeps until the next interrupt; not at all if one is pending.
pub(crate) fn sleep() {
    enable_and_hlt();
    disable();
}
