//! The faults of a guest.

use core::hint::black_box;

use libos_ipc_guest::{print_line, stop};

/// Fails in the named way.
pub(crate) fn fail(how: &str) {
    print_line!("now it is going to happen: {how}");
    print_line!("figure failing 1");
    match how {
        "panic" => panic!("the fault that was requested"),
        "null" => {
            let null = black_box(core::ptr::null_mut::<u32>());
            // SAFETY: none. The page is not mapped: the write faults on purpose.
            unsafe { null.write_volatile(1) };
        }
        "stack" => {
            overflow(0);
        }
        // The guest neither reads nor answers.
        "unresponsive" => stop(),
        _ => print_line!("there is no such fault"),
    }
}

/// Calls itself until the stack overflows.
#[allow(unconditional_recursion)]
fn overflow(depth: u64) -> u64 {
    let space = black_box([depth; 64]);
    overflow(depth + 1) + space[0]
}
