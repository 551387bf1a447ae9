//! The start of the machine: QEMU enters at `guest_start` in 32-bit mode (the PVH protocol), with
//! the address of its start information in `ebx`.
//!
//! All memory below 4 GiB is mapped at its physical address. Page 0 and the page below the stack
//! are not mapped, so that invalid accesses fault at once, and code and constants are read-only.

use core::arch::global_asm;
use core::slice;

global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18                  // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long guest_start
    .popsection

    .pushsection .bss.guest_tables, "aw", @nobits
    .align 4096
guest_pml4: .skip 4096
guest_pdpt: .skip 4096
guest_pds:  .skip 4 * 4096
guest_pt:   .skip 4096
    .popsection

    .pushsection .rodata.guest_gdt, "a"
    .align 8
guest_gdt:
    .quad 0
    .quad 0x00209a0000000000        // 64-bit code
guest_gdt_pointer:
    .word 15
    .long guest_gdt
    .popsection

    .pushsection .text.guest_start, "ax"
    .code32
    .globl guest_start
guest_start:
    cld
    mov esp, offset guest_stack_top
    mov ebp, ebx

    mov eax, offset guest_pdpt + 3
    mov [guest_pml4], eax
    mov eax, offset guest_pds + 3
    xor ecx, ecx
2:  mov [guest_pdpt + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jne 2b

    // 2 MiB at a time up to 4 GiB ...
    mov eax, 0x83
    xor ecx, ecx
3:  mov [guest_pds + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 3b

    // ... but the first of them page by page.
    mov eax, 3
    xor ecx, ecx
4:  mov [guest_pt + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 512
    jne 4b
    mov eax, offset guest_pt + 3
    mov [guest_pds], eax
    mov dword ptr [guest_pt], 0
    mov eax, offset guest_guard
    shr eax, 12
    mov dword ptr [guest_pt + eax * 8], 0
    mov ecx, offset guest_image_start
    shr ecx, 12
    mov edx, offset guest_readonly_end
    shr edx, 12
5:  and dword ptr [guest_pt + ecx * 8], ~2
    inc ecx
    cmp ecx, edx
    jne 5b

    mov eax, cr4
    or eax, 0x620                   // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset guest_pml4
    mov cr3, eax
    mov ecx, 0xc0000080             // EFER
    rdmsr
    or eax, 0x100                   // LME
    wrmsr
    mov eax, cr0
    and eax, ~4                     // EM
    or eax, 0x80010003              // PG, WP, MP, PE
    mov cr0, eax
    lgdt [guest_gdt_pointer]
    push 8
    mov eax, offset guest_long_mode
    push eax
    retf

    .code64
guest_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov rsp, offset guest_stack_top
    mov edi, ebp
    xor ebp, ebp
    call {begin}
    ud2
    .popsection
    "#,
    begin = sym begin,
);

unsafe extern "C" {
    static guest_image_start: u8;
    static guest_image_end: u8;
}

unsafe extern "Rust" {
    /// The guest's program, named by [`program!`](crate::program).
    safe fn libos_ipc_guest_program(start: Start) -> u8;
}

/// The start information of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The kernel's command line, up to the first byte that is not text.
    pub command_line: &'static str,
}

impl Start {
    /// Returns the value of the word `name=value` on the command line.
    pub fn value(&self, name: &str) -> Option<&'static str> {
        self.values(name).next()
    }

    /// Returns the values of all words `name=value` on the command line.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'static str> {
        self.command_line
            .split_ascii_whitespace()
            .filter_map(move |word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// QEMU's start information: `struct hvm_start_info` of the PVH protocol.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
}

/// The greatest length of the command line, in bytes.
const COMMAND_LINE: usize = 4096;
const START_MAGIC: u32 = 0x336e_c578;

/// Initialises the machine, and runs the guest's program.
///
/// # Safety
/// The code above calls this once.
unsafe extern "C" fn begin(info: *const StartInfo) -> ! {
    crate::console::init();
    crate::faults::init();
    crate::interrupts::init();
    crate::clock::init();
    // SAFETY: the PVH protocol puts its address into `ebx`, which the code above has passed on; all
    // memory below 4 GiB is mapped where it is.
    let info = unsafe { info.as_ref() }.filter(|info| info.magic == START_MAGIC);
    let Some(info) = info else {
        panic!("this machine was not started as the PVH protocol has it");
    };
    #[allow(clippy::cast_possible_truncation, reason = "as wide as a pointer")]
    let text = info.command_line as usize as *const u8;
    let length = (0..COMMAND_LINE).take_while(|at| {
        // SAFETY: by the same protocol there is text up to a NUL, which is never written.
        !text.is_null() && unsafe { text.add(*at).read() } != 0
    });
    let length = length.count();
    let bytes = if length == 0 {
        &[]
    } else {
        // SAFETY: the loop above has just read that many bytes.
        unsafe { slice::from_raw_parts(text, length) }
    };
    let command_line = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let code = libos_ipc_guest_program(Start { command_line });
    crate::power_off(code)
}

/// Returns the memory of this program in bytes: code, constants, the stack, and all working memory.
pub fn image_memory() -> usize {
    let (start, end) = (&raw const guest_image_start, &raw const guest_image_end);
    end.addr() - start.addr()
}
