//! Guest.
#![no_std]
#![no_main]
use libos_ipc_guest::{Start, VirtioLine, say};
use libos_ipc::pal::mux::Terminal;
static TERMINAL: Terminal<VirtioLine, 72, 4096> = Terminal::new(VirtioLine);
libos_ipc_guest::program!(main);
fn main(start: Start) -> u8 {
    say!("hello: {} {}", start.command_line, libos_ipc_guest::image_memory());
    say!("{:?}", TERMINAL.line().open(start));
    if start.value("fault").is_some() {
        unsafe { (8 as *mut u32).write_volatile(1) };
    }
    0
}
